"""Rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

from optbench_llm.catalog.info import OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = ()
