"""Give any trainer that has been built an optimizer by name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType

from optbench_llm.create import declared_hyperparameters
from optbench_llm.training.choice import Attached, OptimizerChoice, is_changed
from optbench_llm.training.mixin import OptBenchMixin

logger = logging.getLogger(__name__)


def attach(
    trainer: Trainer,
    spec: str,
    lr: float | None = None,
    *,
    engine: str | None = None,
    lr_scheduler_type: str | None = None,
    **hyperparameters: Any,
) -> None:
    """Let ``trainer``, an instance of any Trainer class, train with the optimizer ``spec``.

    Call it before ``train()``. What is not given here is read from the trainer's arguments when
    the optimizer is made: ``learning_rate``, ``weight_decay``, ``lr_scheduler_type``, and
    ``engine``, if they have one, else ``auto``. Nobody can tell whether a value that equals the
    default of the arguments' class was chosen: it is used, and a warning names it beside the one
    that the catalog declares. Such a default gives way only to what a method demands, with a
    warning that names both: a constant schedule (schedule-free), or the declared learning rate
    where the method finds its step size itself (Prodigy). :class:`OptBenchArguments` leave to the
    catalog what is not set.

    An override of ``create_optimizer`` in the trainer's class does not run; a warning says so.

    Raises ValueError for what is no Trainer, where the trainer has an optimizer or a schedule
    already, and for an unknown spec or hyperparameters that cannot be; the trainer is then what it
    was before.
    """
    if not isinstance(trainer, Trainer):
        raise ValueError(
            f"cannot attach {spec!r} to a {type(trainer).__name__}, expected a transformers"
            " Trainer; without one, create_optimizer(model, spec) makes the optimizer"
        )
    if trainer.optimizer is not None or trainer.is_in_train:
        raise ValueError(
            f"cannot attach {spec!r}: the trainer already has an optimizer"
            f" ({type(trainer.optimizer).__name__}); attach before train() and before"
            " create_optimizer(), and build the trainer without `optimizers`"
        )
    schedule = None if lr_scheduler_type is None else SchedulerType(lr_scheduler_type)
    attached = Attached(spec, lr, hyperparameters, engine, schedule)
    choice = OptimizerChoice.from_attach(trainer.args, attached)
    choice.validate_for(trainer)
    _warn_of_defaults(trainer.args, attached, choice)
    if not isinstance(trainer, OptBenchMixin):
        trainer.__class__ = _with_mixin(type(trainer))
    assert isinstance(trainer, OptBenchMixin)
    trainer.choose_optimizer(attached)
    trainer.measure()


@functools.cache
def _with_mixin(trainer_class: type[Trainer]) -> type[Trainer]:
    return type(f"OptBench{trainer_class.__name__}", (OptBenchMixin, trainer_class), {})


def _warn_of_defaults(args: TrainingArguments, attached: Attached, choice: OptimizerChoice) -> None:
    """Name the settings that an attached optimizer takes from defaults of the arguments' class.

    Only those that differ from what the catalog declares: either may be meant.
    """
    declared = declared_hyperparameters(attached.spec) if choice.provider is None else {}
    used = {"lr": choice.lr, **choice.hyperparameters}
    given = {**attached.hyperparameters, **({} if attached.lr is None else {"lr": attached.lr})}
    differing = {
        name: used[name]
        for name, own in (("lr", "learning_rate"), ("weight_decay", "weight_decay"))
        if name not in given
        and used.get(name) is not None
        and not is_changed(args, own)
        and declared.get(name, used[name]) != used[name]
    }
    if differing:
        logger.warning(
            "optimizer %r runs with %s, as the trainer's arguments say, where the catalog declares"
            " %s; attach(trainer, %r, %s) takes that",
            attached.spec,
            _listed(differing),
            _listed({name: declared[name] for name in differing}),
            attached.spec,
            _listed({name: declared[name] for name in differing}, ", "),
        )
    if choice.lr is None and args.learning_rate is not None:
        logger.warning(
            "optimizer %r finds its step size by itself and runs with the declared lr=%r; the"
            " learning_rate=%r of the arguments is what %s has by default. If you did choose it,"
            " say attach(trainer, %r, lr=%r)",
            attached.spec,
            declared["lr"],
            args.learning_rate,
            type(args).__name__,
            attached.spec,
            args.learning_rate,
        )
    if is_changed(args, "optim"):
        logger.warning(
            "optim=%r of the trainer's arguments has no effect: the attached optimizer %r steps",
            str(getattr(args.optim, "value", args.optim)),
            attached.spec,
        )


def _listed(values: Mapping[str, Any], between: str = " and ") -> str:
    return between.join(f"{name}={value!r}" for name, value in values.items())
