"""Optimizers by transformers' own names (`hf:adamw_torch_fused`), made by its own Trainer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from optbench_llm.catalog import parse_spec
from optbench_llm.training.choice import OptimizerChoice
from optbench_llm.training.optim_args import frozen

if TYPE_CHECKING:
    import torch

#: transformers' learning rate where none is given; its optimizers declare none in the catalog.
DEFAULT_LR = 5e-5


@contextlib.contextmanager
def hf_arguments(trainer: Trainer, choice: OptimizerChoice) -> Iterator[None]:
    """Let the trainer's arguments name the optimizer the way transformers reads it.

    It reads them itself, whatever a subclass makes of them.
    """
    ours: Any = trainer
    args = trainer.args
    trainer.args = _as_transformers_reads(args, choice)
    ours.get_optimizer_cls_and_kwargs = Trainer.get_optimizer_cls_and_kwargs
    try:
        yield
    finally:
        trainer.args = args
        del ours.get_optimizer_cls_and_kwargs


def _as_transformers_reads(args: TrainingArguments, choice: OptimizerChoice) -> TrainingArguments:
    theirs = copy.copy(args)
    theirs.optim = OptimizerNames(parse_spec(choice.spec).name)
    theirs.learning_rate = DEFAULT_LR if choice.lr is None else choice.lr
    rest = dict(choice.hyperparameters)
    theirs.weight_decay = rest.pop("weight_decay", 0.0)
    if "betas" in rest:
        theirs.adam_beta1, theirs.adam_beta2 = rest.pop("betas")
    if "eps" in rest:
        theirs.adam_epsilon = rest.pop("eps")
    theirs.optim_args = ",".join(f"{name}={value}" for name, value in rest.items()) or None
    return theirs


def check_taken(optimizer: torch.optim.Optimizer, choice: OptimizerChoice) -> None:
    """Raise ValueError for a hyperparameter that transformers dropped without a word."""
    for name, asked in choice.hyperparameters.items():
        found = [frozen(group.get(name)) for group in optimizer.param_groups]
        if frozen(asked) not in found:
            raise ValueError(
                f"transformers does not pass {name}={asked!r} on to optimizer {choice.spec!r}"
                f" (it has {found[0]!r}); use a provider that does, such as 'torch:AdamW'"
            )
