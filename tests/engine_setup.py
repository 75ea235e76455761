"""What the engine's executors are given, made without a step."""

from __future__ import annotations

from typing import Any

from optbench_llm.engine.bound import Work


def works_of(optimizer: Any, *, advance: bool = True) -> list[Work]:
    """The works of the next step, or with ``advance=False`` of what is observed."""
    stepper, groups = optimizer._stepper, optimizer.param_groups
    here, _, _ = stepper.division.divide(groups, optimizer.state, lambda rule, p: True)
    return stepper._maker(groups, optimizer._find_executor(), advance=advance).works(here)
