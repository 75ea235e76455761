"""Saves and resumes rows of the catalog by torch.distributed.checkpoint, as torchtitan does."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sharded_steps import all_weights, start, take_steps
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from optbench_llm.engine.sharding import local

#: Blocks of 8-bit codes end with the rows of its weights, so with their parts too; on three
#: processes these are not of one size.
WIDTH = 256
HALF, STEPS = 3, 6
#: The state on disk, by names of parameters, or flat, as torchtitan has it.
ON_DISK: dict[str, dict[str, Any]] = {"by name": {}, "flat": {"flatten_optimizer_state_dict": True}}
#: All of it on the first process, from where it goes to all.
TO_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
WAYS = (*ON_DISK, "whole")


def ways_between(begun: int, count: int, spec: str, width: int = WIDTH) -> tuple[str, ...]:
    """By which ways as many as ``count`` processes go on with what ``begun`` of them have begun.

    On another number by one of them, each pair with each way for some specs; where parts end within
    blocks, by all.
    """
    if begun == count or width != WIDTH:
        return WAYS
    return (WAYS[(begun + 2 * count + len(spec)) % len(WAYS)],)


def parts(model: Any, optimizer: Any, way: str) -> dict[str, Any]:
    """What a checkpoint on disk holds, and what one is loaded into."""
    options = StateDictOptions(**ON_DISK[way])
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def outcome(model: Any, optimizer: Any) -> dict[str, Any]:
    """All weights and all state, on the first process."""
    state = optimizer.whole_state_dict()
    return {"weights": all_weights(model), "state": state and state["state"]}


def begin(folder: Path, spec: str, engine: str, width: int) -> None:
    """Leave checkpoints of the half of a run in the folder, and what it comes to in the end."""
    folder = folder / spec / str(size())
    model, optimizer = start(spec, engine, width=width)
    take_steps(model, optimizer, range(HALF))
    for name in optimizer.rule.kept_by_program:
        for p, state in optimizer.state.items():
            state[name] = local(p.detach()).clone()
    for way in ON_DISK:
        dcp.save(parts(model, optimizer, way), checkpoint_id=folder / way)
    whole = get_optimizer_state_dict(model, optimizer, options=TO_FIRST)
    if rank() == 0:
        torch.save(whole, folder / "whole.pt")
    take_steps(model, optimizer, range(HALF, STEPS))
    found = outcome(model, optimizer)
    if rank() == 0:
        torch.save(found, folder / "undisturbed.pt")


def resumed(folder: Path, spec: str, engine: str, width: int, way: str) -> dict[str, Any]:
    """What a run of a new model comes to that goes on from a checkpoint."""
    model, optimizer = start(spec, engine, width=width)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    loaded = parts(model, optimizer, "by name" if way == "whole" else way)
    if way == "whole":
        # Here it has state of its own by now.
        take_steps(model, optimizer, range(1))
        dcp.load({"model": loaded["model"]}, checkpoint_id=folder / "by name")
        whole = torch.load(folder / "whole.pt", weights_only=True) if rank() == 0 else {}
        options = FROM_FIRST if dist.is_initialized() else None
        set_optimizer_state_dict(model, optimizer, whole, options=options)
    else:
        dcp.load(loaded, checkpoint_id=folder / way)
        options = StateDictOptions(**ON_DISK[way])
        set_optimizer_state_dict(model, optimizer, loaded["optimizer"], options=options)
    set_model_state_dict(model, loaded["model"])
    take_steps(model, optimizer, range(HALF, STEPS))
    return outcome(model, optimizer)


def go_on(folder: Path, spec: str, engine: str, width: int) -> dict[str, Any]:
    """How far runs that others have begun come from that of as many processes without a break.

    By their number of processes and the way, and what was said where there was an error.
    """
    expected = torch.load(folder / spec / str(size()) / "undisturbed.pt", weights_only=True)
    found: dict[str, Any] = {}
    for begun in sorted((folder / spec).iterdir()):
        for way in ways_between(int(begun.name), size(), spec, width):
            name = f"{begun.name}, {way}"
            try:
                found[name] = away(resumed(begun, spec, engine, width, way), expected)
            except (CheckpointException, RuntimeError) as error:
                found[name] = str(error)
    return found


def away(found: dict[str, Any], expected: dict[str, Any]) -> tuple[bool, float]:
    """Whether state and weights are the same bit for bit, and how far off the weights are."""
    weights, state = found["weights"], found["state"]
    off = max(
        float((weights[name] - w).abs().max() / w.abs().max())
        for name, w in expected["weights"].items()
    )
    same = off == 0 and (state is None or equal(state, expected["state"]))
    return same, off


def equal(found: dict[Any, Any], expected: dict[Any, Any]) -> bool:
    """Whether two dictionaries of dictionaries and tensors are the same."""
    return found.keys() == expected.keys() and all(
        equal(value, other)
        if isinstance(value, dict)
        else torch.equal(value, other)
        if isinstance(value, Tensor)
        else value == other
        for value, other in ((found[key], expected[key]) for key in found)
    )


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 0


def act(what: str, folder: Path, specs: list[str], engine: str, width: int = WIDTH) -> None:
    """Begin or go on with every spec; what comes of it is in the folder, errors too."""
    for spec in specs:
        try:
            found = {"begin": begin, "go on": go_on}[what](folder, spec, engine, width)
        except Exception:  # the others are to be seen too
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{spec}, {what}, {rank()} of {size()}.pt")


def warm_up(folder: Path) -> None:
    """A first step at lr 0, with gradients that only the first process sees."""
    dist.init_process_group("gloo")
    _, optimizer = start("muon", "eager", width=32)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.full_like(p, float(rank() == 0))
    optimizer.step()
    steps = {state["step"] for state in optimizer.state.values()}
    torch.save(steps, folder / f"warm-up, {rank()}.pt")
    dist.destroy_process_group()


def main(what: str, folder: Path, specs: list[str], engine: str, width: int = WIDTH) -> None:
    """The same in one of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    act(what, folder, specs, engine, width)
    dist.destroy_process_group()
