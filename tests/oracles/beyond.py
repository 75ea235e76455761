"""Float64 references and proofs of the rules that came after the first catalog."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
