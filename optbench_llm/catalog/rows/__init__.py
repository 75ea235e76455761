"""All rows of the catalog, the published ones first."""

from __future__ import annotations

from optbench_llm.catalog.rows import (
    beyond,
    matrices,
    preconditioners,
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
    *variants.ROWS,
)
