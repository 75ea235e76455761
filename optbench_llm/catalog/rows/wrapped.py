"""Rows that are wrappers around other rules."""

from __future__ import annotations

from optbench_llm.catalog.info import OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = ()
