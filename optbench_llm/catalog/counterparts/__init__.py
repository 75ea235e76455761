"""Other people's implementations of the catalog's rows, and how each comes to compute the same."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts import (
    beyond,
    low_precision,
    matrices,
    preconditioners,
    programs,
    published,
    seed_elements,
    wide,
    wrapped,
)
from optbench_llm.catalog.counterparts.counterpart import PACKAGES, Comparison, Counterpart

__all__ = ["COMPARISONS", "PACKAGES", "Comparison", "Counterpart"]

COMPARISONS: Mapping[str, Comparison] = {
    **published.COMPARISONS,
    **seed_elements.COMPARISONS,
    **wide.COMPARISONS,
    **wrapped.COMPARISONS,
    **matrices.COMPARISONS,
    **preconditioners.COMPARISONS,
    **beyond.COMPARISONS,
    **low_precision.COMPARISONS,
    **programs.COMPARISONS,
}
