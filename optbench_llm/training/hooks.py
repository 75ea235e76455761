"""Methods that a Trainer's class overrides, and which of them a chosen optimizer leaves out."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import Any

from transformers import Trainer

from optbench_llm.catalog import parse_spec
from optbench_llm.training.choice import OptimizerChoice

logger = logging.getLogger(__name__)


def overriding_class(trainer: Trainer, name: str, behind: type | None = None) -> type | None:
    """The first class that defines a method of transformers' Trainer anew; None without one.

    Classes of this package do not count. ``behind`` leaves out those before it in the order in
    which Python looks methods up.
    """
    classes = [*takewhile(lambda cls: cls is not Trainer, type(trainer).__mro__)]
    if behind is not None:
        classes = classes[classes.index(behind) + 1 :]
    ours = __name__.partition(".")[0]
    defining = (cls for cls in classes if name in vars(cls))
    return next((cls for cls in defining if cls.__module__.partition(".")[0] != ours), None)


def warn_of_left_out(trainer: Trainer, mixin: type, choice: OptimizerChoice) -> None:
    """Name the overrides that do not run, or that the optimizer's method cannot rely on."""
    left_out = {
        "create_optimizer": overriding_class(trainer, "create_optimizer", mixin),
        "get_optimizer_cls_and_kwargs": overriding_class(trainer, "get_optimizer_cls_and_kwargs"),
    }
    for name, cls in left_out.items():
        if cls is not None:
            logger.warning(
                "%s.%s has no effect: the optimizer was chosen by name, %r, and has parameter"
                " groups of its own",
                cls.__name__,
                name,
                choice.spec,
            )
    scheduling = overriding_class(trainer, "create_scheduler")
    if scheduling is not None and parse_spec(choice.spec).demands_constant_lr:
        logger.warning(
            "%s.create_scheduler makes the schedule of optimizer %r, whose method demands a"
            " constant learning rate",
            scheduling.__name__,
            choice.spec,
        )


def other_optimizer(trainer: Trainer, choice: OptimizerChoice, found: Any) -> str:
    """What is wrong where another optimizer steps than the one that was chosen."""
    cls = overriding_class(trainer, "create_optimizer")
    where = "" if cls is None else f", made by {cls.__name__}.create_optimizer"
    return (
        f"optimizer {choice.spec!r} was chosen, and {type(found).__name__} would step{where}; let"
        " create_optimizer return super().create_optimizer(), or train with an optimizer of your"
        " own under plain TrainingArguments and nothing attached: it is measured all the same"
    )


def warn_of_changes(made: OptimizerChoice, asked: OptimizerChoice) -> None:
    """Name what the arguments ask for since the optimizer was made, which it does not follow."""
    for name, before in vars(made).items():
        now = getattr(asked, name)
        if now != before:
            logger.warning(
                "the arguments now ask for %s=%r; optimizer %r stays as it was made, with %r, until"
                " another trainer makes one anew",
                name,
                now,
                made.spec,
                before,
            )
