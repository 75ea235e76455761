"""Hyperparameters: the ranges of the field's usual names, and their checking."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import COMPANION

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``; ``open_low`` and ``open_high`` leave the ends out."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    integer: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether value is a number of this interval."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        if self.integer and not isinstance(value, numbers.Integral):
            return False
        number = float(value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.open_low or self.low == -math.inf else "["
        right = ")" if self.open_high or self.high == math.inf else "]"
        kind = "an integer" if self.integer else "a number"
        return f"{kind} in {left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Several:
    """A fixed count of numbers, each in ``interval``."""

    interval: Interval
    count: int

    def accepts(self, value: Any) -> bool:
        """Whether value is a tuple or list of this many accepted numbers."""
        return (
            isinstance(value, (tuple, list))
            and len(value) == self.count
            and all(self.interval.accepts(v) for v in value)
        )

    def __str__(self) -> str:
        return f"{self.count} values, each {self.interval}"


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Whether value is one of them, of the same type."""
        return any(value == v and type(value) is type(v) for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(v) for v in self.values)


@dataclass(frozen=True)
class Optional:
    """None, or what ``inner`` accepts."""

    inner: Interval | Several

    def accepts(self, value: Any) -> bool:
        """Whether value is None or accepted by ``inner``."""
        return value is None or self.inner.accepts(value)

    def __str__(self) -> str:
        return f"None or {self.inner}"


NON_NEGATIVE = Interval(open_high=True)
POSITIVE = Interval(open_low=True, open_high=True)
FRACTION = Interval(0.0, 1.0, open_high=True)
OPEN_FRACTION = Interval(0.0, 1.0, open_low=True, open_high=True)
UNIT = Interval(0.0, 1.0)
FLAG = OneOf((False, True))
REAL = Interval(-math.inf, math.inf, True, True)
COUNT = Interval(1, integer=True)
#: How products of the Hessian with a vector are made.
HVP = OneOf(("forward-difference", "finite-difference", "autograd"))

RANGES: Mapping[str, Any] = {
    "lr": NON_NEGATIVE,
    "betas": Several(FRACTION, 2),
    "eps": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
    "momentum": FRACTION,
    "dampening": UNIT,
    "nesterov": FLAG,
    "alpha": FRACTION,
    "rho": FRACTION,
    "centered": FLAG,
    "k": COUNT,
}

#: Hyperparameters that stay tensors where they are given as such: schedulers fill them in place.
FILLED_IN_PLACE = ("lr", f"{COMPANION}lr")


def check_hyperparameters(
    optimizer: str, given: Mapping[str, Any], rule: type[Rule]
) -> dict[str, Any]:
    """Return the rule's defaults overridden by what was given, as :func:`plain` values.

    An lr that is a tensor stays that tensor.

    Raises ValueError that names the optimizer, the hyperparameter, its range and the accepted
    names where a name is unknown, a value is out of range, or two of them contradict each other.
    """
    defaults = rule.settings()
    accepted = ", ".join(defaults)
    for name, value in given.items():
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"optimizer {optimizer!r} has no hyperparameter {name!r}.{hint}"
                f" It accepts: {accepted}."
            )
        allowed = range_of(rule, name)
        if not allowed.accepts(plain(value)):
            raise ValueError(
                f"optimizer {optimizer!r}: {name}={value!r} is out of range, expected {allowed}."
                f" It accepts: {accepted}."
            )
    merged = {**defaults, **given}
    numbers_alone = {name: plain(value) for name, value in merged.items()}
    conflict = rule.conflict(SimpleNamespace(**numbers_alone))
    if conflict:
        raise ValueError(f"optimizer {optimizer!r}: {conflict}")
    filled = (name for name in FILLED_IN_PLACE if hasattr(merged.get(name), "fill_"))
    return {**numbers_alone, **{name: merged[name] for name in filled}}


def range_of(rule: type[Rule], name: str) -> Any:
    """The values that a hyperparameter of a rule, or of its companion, accepts."""
    if rule.companion is not None and name not in rule.defaults:
        return range_of(rule.companion, name.removeprefix(COMPANION))
    return rule.ranges.get(name) or RANGES[name]


def plain(value: Any) -> Any:
    """Tuples for lists, and Python's numbers for numpy's and for tensors of one element."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    if hasattr(value, "shape") and math.prod(value.shape) == 1:
        return value.item()
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return value


_PLAIN = (float, int, bool, str, type(None))
