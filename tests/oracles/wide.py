"""Float64 references and proofs: rules that see a whole tensor or the whole model."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
