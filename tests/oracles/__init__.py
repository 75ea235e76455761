"""Float64 references of the rules: slow, obvious, one generator for each optimizer.

Each is written from the paper (or the reference implementation that the catalog names), not from
the rule. An oracle takes the first parameter, a numpy array, and the steps: it yields the parameter
after each. State lives in local variables.
"""

from __future__ import annotations

from typing import Any

from oracles import (
    beyond,
    low_precision,
    matrices,
    preconditioners,
    programs,
    published,
    seed_elements,
    variants,
    wide,
    wrapped,
)
from oracles.proof import Proof

PROOFS: dict[str, Proof] = {
    name: proof
    for family in (
        published,
        seed_elements,
        wide,
        wrapped,
        matrices,
        preconditioners,
        beyond,
        low_precision,
        variants,
        programs,
    )
    for name, proof in family.PROOFS.items()
}
#: The settings of each rule's proof.
CASES: dict[str, list[dict[str, Any]]] = {
    name: [dict(case) for case in proof.cases] for name, proof in PROOFS.items()
}

__all__ = ["CASES", "PROOFS"]
