"""Rules that see a whole tensor or the whole model."""

from __future__ import annotations

from optbench_llm.catalog.info import OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = ()
