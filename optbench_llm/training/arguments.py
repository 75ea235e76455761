"""`TrainingArguments` whose `optim` takes any spec and whose defaults suit a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from optbench_llm.training.choice import AUTO_SCHEDULER, OptimizerChoice
from optbench_llm.training.optim_args import parse_optim_args


@dataclass
class OptBenchArguments(TrainingArguments):
    """Arguments of a run under :class:`OptBenchTrainer`; every ``TrainingArguments`` flag works.

    ``optim`` stays the spec that was given. ``learning_rate``, ``weight_decay`` and
    ``lr_scheduler_type`` left alone follow what the catalog declares for the optimizer.

    Raises ValueError for an unknown optimizer or hyperparameter, a value out of range, a
    hyperparameter given twice, and settings such as ``adam_beta1`` that would have no effect.
    """

    optim: str = field(
        default="adamw",
        metadata={
            "help": "Optimizer spec: a catalog name (adan), with storage (lion@int8), or with a"
            " provider (torch:AdamW, bnb:Lion8bit, hf:adamw_torch_fused)."
        },
    )
    optim_args: dict[str, Any] | str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Hyperparameters of the optimizer, such as betas=(0.98,0.92,0.99) eps=1e-8.",
            "nargs": "+",
        },
    )
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate. Default: the one that the catalog declares.",
            "aliases": ["--lr"],
        },
    )
    weight_decay: float | None = field(
        default=None,
        metadata={"help": "Weight decay of all but biases and norms. Default: the optimizer's."},
    )
    engine: Literal["auto", "eager", "compiled", "triton"] = field(
        default="auto",
        metadata={
            "help": "How our own rules run. auto: Triton's kernels on a GPU, and on a CPU compiled"
            " where that repays the work."
        },
    )
    lr_scheduler_type: str = field(
        default=AUTO_SCHEDULER,
        metadata={
            "help": "Learning rate schedule. auto: linear decay, or constant for optimizers whose"
            " method demands it (schedule-free)."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Hide NaN and infinite losses from the logs."},
    )

    def __post_init__(self) -> None:
        self.optim_args = parse_optim_args(self.optim_args)
        if not torch.accelerator.is_available():
            # The parent wants to be told before it takes bf16 autocast, or leaves memory unpinned.
            self.use_cpu = True
        # The parent casts both to enums of its own names, so it sees names that it knows.
        asked = {"optim": self.optim, "lr_scheduler_type": self.lr_scheduler_type}
        self.optim = "adamw_torch"
        if self.lr_scheduler_type == AUTO_SCHEDULER:
            self.lr_scheduler_type = SchedulerType.LINEAR
        try:
            super().__post_init__()
        finally:
            self.optim = asked["optim"]
            if asked["lr_scheduler_type"] == AUTO_SCHEDULER:
                self.lr_scheduler_type = AUTO_SCHEDULER
        OptimizerChoice.from_arguments(self).validate(self)
