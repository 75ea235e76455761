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
from optbench_llm.create import declared_hyperparameters, validate_hyperparameters
from optbench_llm.engine.compiler import check_engine
from optbench_llm.training.optim_args import parse_optim_args

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
class Attached:
    """What `attach` was given; None stands for what it was not given."""

    spec: str
    lr: float | None
    hyperparameters: Mapping[str, Any]
    engine: str | None
    lr_scheduler_type: SchedulerType | None


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer spec with its settings.

    ``lr`` None means the declared one; ``hyperparameters`` holds only what was asked for, and
    ``lr_scheduler_type`` a schedule that surely was.
    """

    spec: str
    lr: float | None
    hyperparameters: Mapping[str, Any]
    engine: str
    lr_scheduler_type: SchedulerType | None

    @classmethod
    def from_arguments(cls, args: OptBenchArguments) -> OptimizerChoice:
        """Read the choice from arguments as they are now.

        Raises ValueError where ``optim_args`` repeats ``learning_rate`` or ``weight_decay``.
        """
        hyperparameters = parse_optim_args(args.optim_args)
        for name, own in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
            if name in hyperparameters and getattr(args, own) is not None:
                raise ValueError(
                    f"{own}={getattr(args, own)!r} and optim_args {name}={hyperparameters[name]!r}"
                    " set the same thing; keep one of them"
                )
        lr = hyperparameters.pop("lr", args.learning_rate)
        if args.weight_decay is not None:
            hyperparameters["weight_decay"] = args.weight_decay
        return cls(args.optim, lr, hyperparameters, args.engine, _chosen_schedule(args))

    @classmethod
    def from_attach(cls, args: TrainingArguments, attached: Attached) -> OptimizerChoice:
        """Complete what `attach` was given by a trainer's arguments as they are now.

        The learning rate, the weight decay and the schedule of ``args`` count, whether somebody
        chose them or they are the default of their class, which nobody can tell apart. Only where
        the optimizer's method demands otherwise (a constant learning rate; a step size that it
        finds by itself) the defaults of the class give way to what it demands.

        Raises ValueError for ``optim_args``, which belong to another optimizer.
        """
        if args.optim_args:
            raise ValueError(
                f"optim_args={args.optim_args!r} of the trainer's arguments have no effect on an"
                f" attached optimizer; pass them to attach(trainer, {attached.spec!r}, ...)"
            )
        parsed, given, lr = parse_spec(attached.spec), dict(attached.hyperparameters), attached.lr
        by_method = parsed.finds_step_size and not is_changed(args, "learning_rate")
        if lr is None and not by_method:
            lr = args.learning_rate
        decay = args.weight_decay
        # Optimizers that have none refuse any but 0.
        if decay or (decay is not None and "weight_decay" in declared_hyperparameters(parsed.text)):
            given.setdefault("weight_decay", decay)
        engine = attached.engine or str(getattr(args, "engine", "auto"))
        schedule = attached.lr_scheduler_type or _chosen_schedule(args)
        return cls(attached.spec, lr, given, engine, schedule)

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
        """Check all settings against a trainer that has made no optimizer yet.

        Raises ValueError as :meth:`validate` does, and beside an optimizer or a schedule that the
        trainer was given.
        """
        self.validate(trainer.args)
        given = {
            "optimizer_cls_and_kwargs": trainer.optimizer_cls_and_kwargs,
            "optimizers": trainer.optimizer or trainer.lr_scheduler,
        }
        for name, other in given.items():
            if other is not None:
                found = other if isinstance(other, tuple) else type(other).__name__
                raise ValueError(
                    f"the trainer was given {name}={found!r} and is to use optimizer"
                    f" {self.spec!r}; keep one of them (with plain TrainingArguments a trainer"
                    " steps with what it was given, and is measured all the same)"
                )

    def _refuse_ineffective(self, args: TrainingArguments) -> None:
        for name in OWN_SETTINGS:
            if is_changed(args, name):
                instead = ADAM_SETTINGS.get(name)
                raise ValueError(
                    f"{name}={getattr(args, name)!r} has no effect on optimizer {self.spec!r}; "
                    + (f"set {instead} among optim_args instead" if instead else "leave it out")
                )

    def scheduler_type(self, args: TrainingArguments) -> SchedulerType:
        """Schedule of the learning rate.

        The one that was chosen, with a warning where the catalog says that the method demands a
        constant one. Else a constant one for such methods (after the warm-up that ``args`` ask
        for), and for others the default of the arguments' class, which is linear for ``auto``.
        """
        demands_constant = parse_spec(self.spec).demands_constant_lr
        if self.lr_scheduler_type is not None:
            if demands_constant and self.lr_scheduler_type not in CONSTANT_SCHEDULES:
                logger.warning(
                    "optimizer %r is meant for a constant learning rate, but lr_scheduler_type=%r"
                    " was asked for and is used; leave it out for the constant schedule",
                    self.spec,
                    self.lr_scheduler_type.value,
                )
            return self.lr_scheduler_type
        own = args.lr_scheduler_type
        if not demands_constant:
            return SchedulerType.LINEAR if own == AUTO_SCHEDULER else SchedulerType(own)
        kind = SchedulerType.CONSTANT_WITH_WARMUP if args.warmup_steps else SchedulerType.CONSTANT
        if own == AUTO_SCHEDULER:
            logger.info("optimizer %r demands a constant learning rate: %s", self.spec, kind.value)
        else:
            logger.warning(
                "optimizer %r demands a constant learning rate and runs with lr_scheduler_type=%r;"
                " the %r of the arguments is what %s has by default. If you did choose it, say"
                " attach(trainer, %r, lr_scheduler_type=%r)",
                self.spec,
                kind.value,
                SchedulerType(own).value,
                type(args).__name__,
                self.spec,
                SchedulerType(own).value,
            )
        return kind


def _chosen_schedule(args: TrainingArguments) -> SchedulerType | None:
    """The schedule of ``args`` where it is not the default of their class."""
    chosen = is_changed(args, "lr_scheduler_type")
    return SchedulerType(args.lr_scheduler_type) if chosen else None


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


def is_changed(args: TrainingArguments, name: str) -> bool:
    """Whether a setting is surely somebody's choice: not the default of the arguments' class."""
    return getattr(args, name) != next(f.default for f in fields(args) if f.name == name)
