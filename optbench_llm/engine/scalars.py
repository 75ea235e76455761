"""The numbers of one step: what the groups hold, and what a rule makes of it."""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from optbench_llm.engine.units import Unit
from optbench_llm.rules.rule import Rule


def settings_of(group: dict[str, Any]) -> Any:
    """What a parameter group holds, by name; a scheduler may have made lr a tensor."""
    values = {key: value for key, value in group.items() if key != "params"}
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
    return SimpleNamespace(**numbers)


def settings_of_unit(h: Any, unit: Unit) -> Any:
    """The settings of a group as the rule of one unit sees them."""
    return SimpleNamespace(**{**vars(h), "role": unit.role, "heads": unit.heads})


def named(rule: type[Rule], numbers: dict[str, float]) -> Any:
    """The numbers of a step as a named tuple, of one type for each rule and set of names."""
    return _scalars_type(rule, tuple(numbers))(**numbers)


@cache
def _scalars_type(rule: type[Rule], names: tuple[str, ...]) -> Any:
    return namedtuple(f"{rule.__name__}Scalars", names)
