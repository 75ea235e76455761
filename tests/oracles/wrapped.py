"""Float64 references and proofs: rows that are wrappers around other rules."""

from __future__ import annotations

from oracles.proof import Proof

PROOFS: dict[str, Proof] = {}
