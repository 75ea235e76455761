"""All rows of the catalog, the published ones first."""

from __future__ import annotations

from optbench_llm.catalog.rows import (
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

ENTRIES = (
    *published.ROWS,
    *seed_elements.ROWS,
    *wide.ROWS,
    *wrapped.ROWS,
    *matrices.ROWS,
    *preconditioners.ROWS,
    *beyond.ROWS,
    *low_precision.ROWS,
    *variants.ROWS,
    *programs.ROWS,
)
