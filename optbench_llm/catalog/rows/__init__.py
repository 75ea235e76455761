"""All rows of the catalog, the published ones first."""

from __future__ import annotations

from optbench_llm.catalog.rows import beyond, matrices, published, seed_elements, wide

ENTRIES = (
    *published.ROWS,
    *seed_elements.ROWS,
    *wide.ROWS,
    *matrices.ROWS,
    *beyond.ROWS,
)
