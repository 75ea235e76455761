"""What there is to say of one other implementation, and the settings that most are compared at.

Versions that the statements about others were read from and measured with: torch 2.13,
pytorch_optimizer 4.1, schedulefree 1.4, prodigyopt 1.1, bitsandbytes 0.50, transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Whose versions an audit states.
PACKAGES = (
    "torch",
    "pytorch_optimizer",
    "schedulefree",
    "prodigyopt",
    "bitsandbytes",
    "transformers",
)
Settings = Mapping[str, Any]
Arguments = Callable[[Settings], dict[str, Any]]


def same(settings: Settings) -> dict[str, Any]:
    """The same names for the same things."""
    return dict(settings)


def named(
    rename: Mapping[str, str] | None = None, drop: tuple[str, ...] = (), **fixed: Any
) -> Arguments:
    """Arguments under other names, without those in ``drop``, and with those in ``fixed``."""
    names = rename or {}

    def arguments(settings: Settings) -> dict[str, Any]:
        kept = {names.get(k, k): value for k, value in settings.items() if k not in drop}
        return {**kept, **fixed}

    return arguments


@dataclass(frozen=True)
class Counterpart:
    """One other implementation.

    ``arguments`` turns our settings into its own. ``at`` are settings of ours under which alone it
    computes the same, as ``known`` says; ``matrices`` leaves vectors out of the comparison and
    ``constant_lr`` changes of the learning rate, for the same reason. ``agrees`` False: it computes
    something else, and ``known`` says what. ``unfit`` says why it cannot be stepped beside ours.
    ``group`` goes into its parameter group, ``base`` is the spec of the optimizer that it wraps,
    ``takes_model`` that its constructor wants a module.
    """

    spec: str
    arguments: Arguments = same
    note: str = ""
    known: str = ""
    agrees: bool = True
    at: Settings = field(default_factory=dict)
    unfit: str | None = None
    group: Settings = field(default_factory=dict)
    base: str | None = None
    base_arguments: Arguments = same
    takes_model: bool = False
    matrices: bool = False
    constant_lr: bool = False

    @property
    def label(self) -> str:
        """The spec, and what tells two of the same class apart."""
        return f"{self.spec} {self.note}".rstrip()


@dataclass(frozen=True)
class Comparison:
    """Settings of ours of which each is felt within a few steps, and the others."""

    settings: Settings
    others: tuple[Counterpart, ...] = ()
    #: What is set otherwise where only the time counts.
    timed: Settings = field(default_factory=dict)


ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.2}
MOMENTUM = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
COUPLED = named(weight_decouple=False)
DECOUPLED = named(weight_decouple=True)

P = "pytorch_optimizer:"
