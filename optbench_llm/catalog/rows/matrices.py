"""Rules that see whole matrices, factored or not."""

from __future__ import annotations

from optbench_llm.catalog.info import OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = ()
