"""What a rule's proof consists of, beside the traces of its authors' code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oracles.step import Path


@dataclass(frozen=True)
class Shape:
    """The shape of a parameter; ``transposed`` stores it as the transpose of a contiguous one."""

    sizes: tuple[int, ...]
    transposed: bool = False


ALL_SHAPES = (
    Shape(()),
    Shape((7,)),
    Shape((5, 8)),
    Shape((6, 9), transposed=True),
    Shape((2, 3, 4)),
)
MATRICES = (Shape((5, 8)), Shape((6, 9), transposed=True), Shape((8, 3)))


#: The law that schedules reaching 0 stop everything; averages of updates are excused from it.
LR_0_MIDWAY = "test_an_lr_of_zero_in_the_middle_moves_nothing"


@dataclass(frozen=True)
class Proof:
    """The float64 reference of one rule, and the settings under which the two meet.

    ``cases`` give every hyperparameter of the rule, none at its default in all of them, weight
    decay on; the first is the one that is compiled as well, and the one of the common laws. The lr
    moves parameters far enough that fp32's rounding of the parameter itself stays below the
    deviation looked for.

    ``scale_free``: changes of the first case under which the scale of the gradients does not
    matter, or the reason why it always does. ``exceptions``: the name of a common law's test, and
    why it does not hold for this rule. ``shapes``: what the rule takes. A ``joint`` reference takes
    a list of parameters, steps whose ``g`` is a list (None where a parameter has no gradient), and
    yields lists. ``role`` is given to a rule that must know what its parameters are. ``unfelt``
    hyperparameters show in other dtypes or layouts only, and have tests of their own.
    """

    oracle: Callable[..., Path]
    cases: Sequence[Mapping[str, Any]]
    scale_free: Mapping[str, Any] | str
    exceptions: Mapping[str, str] = field(default_factory=dict)
    shapes: Sequence[Shape] = ALL_SHAPES
    joint: bool = False
    role: str | None = None
    unfelt: Sequence[str] = ()
