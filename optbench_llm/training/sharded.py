"""Checkpoints of runs whose weights are sharded (FSDP2): files as one process writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import SaveStrategy
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.sharding import has_parts
from optbench_llm.training.optimizer_clock import unwrapped


def is_sharded(optimizer: Any) -> bool:
    """Whether this is our optimizer over parameters of which each process has a part."""
    inner = unwrapped(optimizer)
    return isinstance(inner, RuleOptimizer) and has_parts(inner)


def check_saved(args: TrainingArguments, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for sharded state that is to be saved, and is not our own optimizer's."""
    saves = args.save_strategy != SaveStrategy.NO and not args.save_only_model
    inner = unwrapped(optimizer)
    if saves and has_parts(inner) and not isinstance(inner, RuleOptimizer):
        name = f"{type(inner).__module__.partition('.')[0]}:{type(inner).__name__}"
        raise ValueError(
            f"optimizer {name!r} steps parameters that are sharded as they are loaded (FSDP2), and"
            " its checkpoints would hold the state of the first process alone; set"
            " save_only_model=True or save_strategy='no', or take one of our rules, such as adamw"
        )


@contextmanager
def checkpoints_of_sharded_state(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Build a Trainer of these arguments that may save an optimizer's sharded state.

    transformers' own Trainer refuses to for a model that is sharded as it is loaded, since it would
    save the state of the first process alone.
    """
    given = (*args, *kwargs.values())
    ours = [a for a in given if isinstance(a, TrainingArguments)]
    sharded = any(getattr(a, "is_distributed_loading_by_transformers", False) for a in given)
    if not (ours and sharded) or ours[0].save_only_model:
        yield
        return
    ours[0].save_only_model = True
    try:
        yield
    finally:
        ours[0].save_only_model = False


def save_sharded(trainer: Trainer, folder: str) -> None:
    """Save the optimizer's whole state and the schedule; all processes must call it."""
    optimizer: Any = unwrapped(trainer.optimizer)
    schedule: Any = trainer.lr_scheduler
    state = optimizer.whole_state_dict()
    if trainer.args.should_save:
        torch.save(state, Path(folder, OPTIMIZER_NAME))
        torch.save(schedule.state_dict(), Path(folder, SCHEDULER_NAME))


def load_sharded(trainer: Trainer, folder: str) -> None:
    """Take this process's part of a checkpoint's optimizer state, and the schedule."""
    # Mapped, not read: no process has memory for all of it.
    file = Path(folder, OPTIMIZER_NAME)
    state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    optimizer: Any = unwrapped(trainer.optimizer)
    schedule: Any = trainer.lr_scheduler
    optimizer.load_state_dict(state)
    schedule.load_state_dict(torch.load(Path(folder, SCHEDULER_NAME), weights_only=True))


def load_sharded_weights(model: Any, folder: str) -> bool:
    """Take this process's part of a checkpoint's weights; False where nothing is sharded."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return False
    files = [Path(folder, SAFE_WEIGHTS_NAME)]
    if Path(folder, SAFE_WEIGHTS_INDEX_NAME).exists():
        files = sorted(Path(folder).glob("*.safetensors"))
    if not files[0].exists():
        # Adapters, which no process has a part of.
        return False
    weights: dict[str, Any] = {
        name: value for file in files for name, value in load_file(file).items()
    }
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, weights, options=options)
    return True
