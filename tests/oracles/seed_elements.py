"""Float64 references and proofs of the element rules of the first catalog."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
