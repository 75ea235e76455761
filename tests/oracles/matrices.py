"""Float64 references and proofs of the rules that see whole matrices."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
