"""Float64 references and proofs of the rules and wrappers that see a tensor or a model."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
