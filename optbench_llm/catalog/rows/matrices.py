"""Rules that see whole matrices and know what they are."""

from __future__ import annotations

from optbench_llm.catalog.info import OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = ()
