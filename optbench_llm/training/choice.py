"""Which optimizer a run uses, with which settings: from arguments or from `attach`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from optbench_llm.catalog import parse_spec
from optbench_llm.create import validate_hyperparameters
from optbench_llm.engine.compiler import check_engine

if TYPE_CHECKING:
    from optbench_llm.training.arguments import OptBenchArguments

logger = logging.getLogger(__name__)

#: Settings of TrainingArguments that only transformers' own optimizers read, and what replaces
#: them here.
ADAM_SETTINGS = {"adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
OWN_SETTINGS = (*ADAM_SETTINGS, "optim_target_modules")
FUSED_WITH_BACKWARD = (OptimizerNames.LOMO, OptimizerNames.ADALOMO)
#: Of lr_scheduler_type: what the optimizer demands, else linear.
AUTO_SCHEDULER = "auto"
CONSTANT_SCHEDULES = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer spec with its settings.

    ``lr`` None means the declared one; ``hyperparameters`` holds only what was asked for.
    """

    spec: str
    lr: float | None
    hyperparameters: Mapping[str, Any]
    engine: str

    @classmethod
    def from_arguments(cls, args: OptBenchArguments) -> OptimizerChoice:
        """Read the choice from arguments.

        Raises ValueError where ``optim_args`` repeats ``learning_rate`` or ``weight_decay``.
        """
        assert isinstance(args.optim_args, dict)
        hyperparameters = dict(args.optim_args)
        for name, own in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
            if name in hyperparameters and getattr(args, own) is not None:
                raise ValueError(
                    f"{own}={getattr(args, own)!r} and optim_args {name}={hyperparameters[name]!r}"
                    " set the same thing; keep one of them"
                )
        lr = hyperparameters.pop("lr", args.learning_rate)
        if args.weight_decay is not None:
            hyperparameters["weight_decay"] = args.weight_decay
        return cls(args.optim, lr, hyperparameters, args.engine)

    @classmethod
    def from_attach(
        cls,
        args: TrainingArguments,
        spec: str,
        lr: float | None,
        engine: str,
        hyperparameters: Mapping[str, Any],
    ) -> OptimizerChoice:
        """Complete what `attach` was given by what a trainer's arguments set on purpose.

        A learning rate or weight decay of ``args`` counts where it differs from the default of the
        arguments' class. Raises ValueError for ``optim_args``, which belong to another optimizer.
        """
        if args.optim_args:
            raise ValueError(
                f"optim_args={args.optim_args!r} of the trainer's arguments have no effect on an"
                f" attached optimizer; pass them to attach(trainer, {spec!r}, ...)"
            )
        given = dict(hyperparameters)
        if lr is None and _is_changed(args, "learning_rate"):
            lr = args.learning_rate
        if "weight_decay" not in given and _is_changed(args, "weight_decay"):
            given["weight_decay"] = args.weight_decay
        return cls(spec, lr, given, engine)

    @property
    def provider(self) -> str | None:
        """Where a foreign optimizer comes from, such as ``torch`` or ``hf``; None for our rules."""
        return parse_spec(self.spec).provider

    def validate(self, args: TrainingArguments) -> None:
        """Check all settings before any model is loaded.

        Raises ValueError for an unknown optimizer, engine or hyperparameter, a value out of range,
        and settings of ``args`` that this optimizer would not see.
        """
        check_engine(self.engine)
        given = dict(self.hyperparameters)
        if self.lr is not None:
            given["lr"] = self.lr
        validate_hyperparameters(self.spec, given)
        if self.provider == "hf":
            check_hf_name(self.spec)
        else:
            self._refuse_ineffective(args)

    def validate_for(self, trainer: Trainer) -> None:
        """Check all settings against a trainer that has been built.

        Raises ValueError as :meth:`validate` does, and beside ``optimizer_cls_and_kwargs``.
        """
        self.validate(trainer.args)
        if trainer.optimizer_cls_and_kwargs is not None:
            raise ValueError(
                f"the trainer was given optimizer_cls_and_kwargs="
                f"{trainer.optimizer_cls_and_kwargs!r} and is to use optimizer {self.spec!r};"
                " keep one of them"
            )

    def _refuse_ineffective(self, args: TrainingArguments) -> None:
        for name in OWN_SETTINGS:
            if _is_changed(args, name):
                instead = ADAM_SETTINGS.get(name)
                raise ValueError(
                    f"{name}={getattr(args, name)!r} has no effect on optimizer {self.spec!r}; "
                    + (f"set {instead} among optim_args instead" if instead else "leave it out")
                )

    def scheduler_type(self, args: TrainingArguments) -> SchedulerType:
        """Schedule of the learning rate.

        Left alone it is the default of the arguments' class (linear for ``auto``), or constant
        (after the warm-up that ``args`` ask for) where the catalog says that the method demands it.
        """
        demands_constant = parse_spec(self.spec).demands_constant_lr
        if _is_changed(args, "lr_scheduler_type"):
            asked = SchedulerType(args.lr_scheduler_type)
            if demands_constant and asked not in CONSTANT_SCHEDULES:
                logger.warning(
                    "optimizer %r is meant for a constant learning rate, but lr_scheduler_type=%r"
                    " was asked for and is used; leave it out for the constant schedule",
                    self.spec,
                    asked.value,
                )
            return asked
        if not demands_constant:
            own = args.lr_scheduler_type
            return SchedulerType.LINEAR if own == AUTO_SCHEDULER else SchedulerType(own)
        kind = SchedulerType.CONSTANT_WITH_WARMUP if args.warmup_steps else SchedulerType.CONSTANT
        logger.info("optimizer %r demands a constant learning rate: %s", self.spec, kind.value)
        return kind


def check_hf_name(spec: str) -> None:
    """Raise ValueError unless ``hf:name`` is one of transformers' own optimizers and can run."""
    name = parse_spec(spec).name
    names = [member.value for member in OptimizerNames]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise ValueError(f"transformers has no optimizer {name!r}.{hint}")
    if name in FUSED_WITH_BACKWARD:
        raise ValueError(
            f"optimizer {spec!r} updates inside the backward pass, which transformers prepares only"
            " for its own `optim`; use another optimizer here, or a plain Trainer with"
            f" TrainingArguments(optim={name!r})"
        )


def check_flattened(spec: str) -> None:
    """Raise ValueError for what cannot work on the flat copies that DeepSpeed's ZeRO makes."""
    parsed = parse_spec(spec)
    info = parsed.info
    if info is not None and info.scope != "element":
        raise ValueError(
            f"optimizer {spec!r} needs whole tensors (scope {info.scope!r}), and DeepSpeed's ZeRO"
            " flattens and cuts them; train it under DDP, or take an optimizer of scope 'element'"
            " such as 'adamw' (list_optimizers(scope='element') shows all)"
        )
    if info is not None and info.provider is None:
        moves = info.rule_class().evaluation_point is not None
    else:
        moves = "schedulefree" in parsed.name.lower().replace("_", "")
    if moves:
        raise ValueError(
            f"optimizer {spec!r} is evaluated and saved at another point than it trains at, and the"
            " model under DeepSpeed's ZeRO does not follow it there; use DDP or FSDP2"
        )


def _default(arguments: type[TrainingArguments], name: str) -> Any:
    return next(f.default for f in fields(arguments) if f.name == name)


def _is_changed(args: TrainingArguments, name: str) -> bool:
    return getattr(args, name) != _default(type(args), name)
