"""Float64 references and proofs: rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
