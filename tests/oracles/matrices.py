"""Float64 references and proofs: rules that see whole matrices and know what they are."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
