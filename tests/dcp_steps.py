"""Saves and resumes rows of the catalog through torch.distributed.checkpoint, as torchtitan does."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sharded_steps import all_weights, start, take_steps
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

#: Its feed-forward weights end with a block of 8-bit codes on one, two and three processes.
WIDTH = 48
HALF, STEPS = 3, 6
#: The state by names of parameters, or flat, as torchtitan has it.
WAYS: dict[str, dict[str, Any]] = {"by name": {}, "flat": {"flatten_optimizer_state_dict": True}}
#: All of it on the first process, from where it goes to all.
TO_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def parts(model: Any, optimizer: Any, way: str) -> dict[str, Any]:
    """What a checkpoint holds, and what one is loaded into."""
    options = StateDictOptions(**WAYS[way])
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def first_half(folder: Path, spec: str, engine: str) -> tuple[Any, Any]:
    """A model and its optimizer after half of the steps, which are in the folder now."""
    model, optimizer = start(spec, engine, width=WIDTH)
    take_steps(model, optimizer, range(HALF))
    for way in WAYS:
        dcp.save(parts(model, optimizer, way), checkpoint_id=folder / way)
    return model, optimizer


def second_half(folder: Path, spec: str, engine: str, way: str) -> dict[str, Tensor]:
    """The weights at the end of a run of a new model that goes on from a checkpoint on disk."""
    model, optimizer = start(spec, engine, width=WIDTH)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    loaded = parts(model, optimizer, way)
    dcp.load(loaded, checkpoint_id=folder / way)
    set_model_state_dict(model, loaded["model"])
    options = StateDictOptions(**WAYS[way])
    set_optimizer_state_dict(model, optimizer, loaded["optimizer"], options=options)
    take_steps(model, optimizer, range(HALF, STEPS))
    return all_weights(model)


def through_the_first(model: Any, optimizer: Any, spec: str, engine: str) -> dict[str, Tensor]:
    """The weights at the end of a run that had its state from the first process's memory."""
    whole = get_optimizer_state_dict(model, optimizer, options=TO_FIRST)
    weights = all_weights(model)
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    other, resumed = start(spec, engine, weights, WIDTH)
    # It has state of its own by now.
    take_steps(other, resumed, range(1))
    set_model_state_dict(other, weights, options=StateDictOptions(full_state_dict=True))
    set_optimizer_state_dict(other, resumed, whole, options=FROM_FIRST)
    take_steps(other, resumed, range(HALF, STEPS))
    return all_weights(other)


def begin(folder: Path, spec: str, engine: str) -> dict[str, Any]:
    """The weights of a run without a break, and of one whose state went through one process."""
    model, optimizer = first_half(folder / spec / str(size()), spec, engine)
    found: dict[str, Any] = {}
    if dist.is_initialized():
        found["through the first"] = through_the_first(model, optimizer, spec, engine)
    take_steps(model, optimizer, range(HALF, STEPS))
    return {**found, "undisturbed": all_weights(model)}


def go_on(folder: Path, spec: str, engine: str) -> dict[str, Any]:
    """The weights of runs that others have begun, by their number of processes and the way."""
    begun = sorted(path for path in (folder / spec).iterdir() if path.is_dir())
    return {
        f"{path.name}, {way}": second_half(path, spec, engine, way) for path in begun for way in WAYS
    }


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 0


def main(folder: Path, specs: list[str], engine: str, act: str) -> None:
    """Begin or go on with every spec; what comes of it is in the folder, errors too."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for spec in specs:
        try:
            found = {"begin": begin, "go on": go_on}[act](folder, spec, engine)
        except Exception:  # the others are to be seen too
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{spec}, {act}, {dist.get_rank()} of {size()}.pt")
    dist.destroy_process_group()
