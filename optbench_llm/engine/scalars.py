"""The numbers of one step: what the groups hold, and what a rule makes of it."""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from types import SimpleNamespace
from typing import Any

from optbench_llm.engine.units import Unit
from optbench_llm.rules.hyperparameters import plain
from optbench_llm.rules.rule import Rule

#: What a parameter group holds beside numbers and names of kinds.
NOT_SETTINGS = ("params", "param_names")


def settings_of(group: dict[str, Any]) -> Any:
    """What a parameter group holds, by name; lr may be a tensor there, a number here."""
    values = {name: plain(value) for name, value in group.items() if name not in NOT_SETTINGS}
    return SimpleNamespace(**values)


def settings_of_unit(h: Any, unit: Unit) -> Any:
    """The settings of a group as the rule of one unit sees them."""
    return SimpleNamespace(**{**vars(h), "role": unit.role, "heads": unit.heads})


def named(rule: type[Rule], numbers: dict[str, float]) -> Any:
    """The numbers of a step as a named tuple, of one type for each rule and set of names."""
    return _scalars_type(rule, tuple(numbers))(**numbers)


@cache
def _scalars_type(rule: type[Rule], names: tuple[str, ...]) -> Any:
    return namedtuple(f"{rule.__name__}Scalars", names)
