"""Give any trainer that has been built an optimizer by name."""

from __future__ import annotations

import functools
from typing import Any

from transformers import Trainer

from optbench_llm.training.choice import OptimizerChoice
from optbench_llm.training.mixin import OptBenchMixin


def attach(
    trainer: Trainer,
    spec: str,
    lr: float | None = None,
    *,
    engine: str | None = None,
    **hyperparameters: Any,
) -> None:
    """Let ``trainer``, an instance of any Trainer class, train with the optimizer ``spec``.

    Call it before ``train()``. It is the same run as ``OptBenchArguments(optim=spec, ...)`` would
    give. Without ``lr`` a ``learning_rate`` of the trainer's arguments that is not their default
    counts, else the catalog's declared one; likewise ``weight_decay``, and for methods that demand
    a constant learning rate the schedule. Without ``engine`` that of the arguments counts, if they
    have one, else ``auto``.

    Raises ValueError for what is no Trainer, where the trainer has an optimizer already, and for an
    unknown spec or hyperparameters that cannot be; the trainer is then what it was before.
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
    if engine is None:
        engine = str(getattr(trainer.args, "engine", "auto"))
    choice = OptimizerChoice.from_attach(trainer.args, spec, lr, engine, hyperparameters)
    choice.validate_for(trainer)
    if not isinstance(trainer, OptBenchMixin):
        trainer.__class__ = _with_mixin(type(trainer))
    assert isinstance(trainer, OptBenchMixin)
    trainer.choose_optimizer(choice)
    trainer.measure()


@functools.cache
def _with_mixin(trainer_class: type[Trainer]) -> type[Trainer]:
    return type(f"OptBench{trainer_class.__name__}", (OptBenchMixin, trainer_class), {})
