"""The state of sharded parameters, put together for a checkpoint and taken apart from one.

A checkpoint has the state as one process would have it, so that any number of processes can go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optbench_llm.engine.blockwise import SCALE
from optbench_llm.engine.sharding import Sharding
from optbench_llm.engine.storage import BLOCK, Blockwise, Storage

State = dict[str, Any]
#: What evaluation mode puts aside: the part of the parameter that each process holds.
TRAIN_POINT = "train_point"


@dataclass(frozen=True)
class Layout:
    """Where the state of one parameter lies.

    ``sharding`` is None where each process has all of it. ``owner`` is the process that has it all,
    None where each has its part. ``storages`` are those of the slots in the parameter's shape.
    """

    sharding: Sharding | None
    owner: int | None
    storages: Mapping[str, Storage]
    device: torch.device

    def slot_of(self, key: str) -> str | None:
        """The slot in the parameter's shape that a tensor of the state belongs to."""
        names = (name for name in (key, key.removesuffix(SCALE)) if name in self.storages)
        return next(names, None)


def joined(layouts: Mapping[int, Layout], states: Mapping[int, State]) -> dict[int, State] | None:
    """The state of the parameters by index as one process would have it, on the CPU.

    All processes must call it. Returns None on all but the first of each group.
    """
    sharded = [(i, x, x.sharding) for i, x in layouts.items() if x.sharding is not None]
    groups = dict.fromkeys(sharding.group for _, _, sharding in sharded)
    owned = {i for i, layout, _ in sharded if layout.owner is not None}
    announced: dict[int, list[tuple[str, Any]]] = {}
    for group in groups:
        own = {
            i: _announcement(states.get(i, {}))
            for i, layout, sharding in sharded
            if sharding.group is group and layout.owner == sharding.rank
        }
        found: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(found, own, group=group)
        announced |= dict(chain.from_iterable(entry.items() for entry in found))
    result: dict[int, State] = {}
    for i, layout in layouts.items():
        state, sharding = states.get(i, {}), layout.sharding
        if sharding is None:
            whole: State = {k: _on_cpu(v) for k, v in state.items()}
        elif i in owned:
            whole = _from_owner(state, layout, sharding, announced[i])
            # Each process puts its own part aside.
            if TRAIN_POINT in state:
                whole |= _from_parts({TRAIN_POINT: state[TRAIN_POINT]}, layout, sharding)
        else:
            whole = _from_parts(state, layout, sharding)
        if whole:
            result[i] = whole
    first = all(dist.get_rank(group) == 0 for group in groups)
    return result if first else None


def own_part(layout: Layout, state: State, p: Tensor, name: str) -> State:
    """What this process keeps of one parameter's state from a checkpoint, on the device of ``p``.

    ``p`` is what this process holds, ``name`` the parameter's for messages. Slots that the
    checkpoint has in another storage, as where parts end within blocks of 8 bits, are stored anew.

    Raises ValueError for a slot of another shape than the parameter's.
    """
    sharding = layout.sharding
    shape = tuple(p.shape if sharding is None else sharding.shape)
    state = _in_storages(layout, state, shape, name)
    if sharding is None:
        return {key: _copied(value, p.device) for key, value in state.items()}
    plain = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    start = tensors.pop(TRAIN_POINT, None)
    if layout.owner is None:
        kept = plain
        if p.numel():
            kept |= {key: _cut(key, value, layout, sharding) for key, value in tensors.items()}
    else:
        kept = {**plain, **tensors} if layout.owner == sharding.rank else {"step": plain["step"]}
    if start is not None:
        kept[TRAIN_POINT] = sharding.part(start)
    return {key: _copied(value, p.device) for key, value in kept.items()}


def _in_storages(layout: Layout, state: State, shape: tuple[int, ...], name: str) -> State:
    """The state with every slot of the parameter's shape in the storage that is expected."""
    state = dict(state)
    for slot, storage in layout.storages.items():
        if slot not in state:
            continue
        value, blockwise = state[slot], slot + SCALE in state
        elements = torch.Size(shape).numel()
        if value.numel() != elements or not (blockwise or tuple(value.shape) == shape):
            raise ValueError(
                f"the state's slot {slot!r} of {name} has the shape {tuple(value.shape)}, the"
                f" parameter {shape}: this is the state of another model"
            )
        if blockwise == isinstance(storage, Blockwise):
            continue
        if blockwise:
            parts = value, state.pop(slot + SCALE)
            like = torch.empty(shape, dtype=torch.float32, device=value.device)
            positive = value.dtype == torch.uint8
            state[slot] = Blockwise(positive).decode(parts, like)
        else:
            state[slot], state[slot + SCALE] = storage.encode(value)
    return state


def _cut(key: str, value: Tensor, layout: Layout, sharding: Sharding) -> Tensor:
    """This process's part of one tensor of the state."""
    slot = layout.slot_of(key)
    if slot is None:
        return value
    if not isinstance(layout.storages[slot], Blockwise):
        return sharding.part(value).contiguous()
    start, count = sharding.origin, sharding.count_of(sharding.rank)
    if key == slot:
        return value[start : start + count]
    return value[start // BLOCK : -(-(start + count) // BLOCK)]


def _from_parts(state: State, layout: Layout, sharding: Sharding) -> State:
    """Put together on the first process what each has a part of; empty on the others."""
    whole: State = {}
    for key in sorted(state):
        value, slot = state[key], layout.slot_of(key)
        if slot is None and key != TRAIN_POINT:
            whole[key] = _on_cpu(value)
            continue
        blockwise = slot is not None and isinstance(layout.storages[slot], Blockwise)
        shapes: list[tuple[int, ...]] = []
        for rank in range(len(sharding.sizes)):
            count = sharding.count_of(rank)
            blocks = count if key == slot else -(-count // BLOCK)
            shapes.append((blocks,) if blockwise else sharding.shape_of(rank))
        parts = _collected(value, shapes, sharding)
        whole[key] = torch.cat(parts, 0 if blockwise else sharding.dim) if parts else None
    return whole if sharding.rank == 0 else {}


def _collected(
    value: Tensor, shapes: Sequence[tuple[int, ...]], sharding: Sharding
) -> list[Tensor]:
    """All processes' tensors, on the first one; processes that hold nothing do not take part."""
    if sharding.rank and not value.numel():
        return []
    if sharding.rank:
        dist.send(value.contiguous(), group=sharding.group, group_dst=0)
        return []
    parts = [value.cpu()]
    for rank, shape in enumerate(shapes[1:], start=1):
        if torch.Size(shape).numel():
            part = value.new_empty(shape)
            dist.recv(part, group=sharding.group, group_src=rank)
            parts.append(part.cpu())
    return parts


def _announcement(state: State) -> list[tuple[str, Any]]:
    """Names with shape, strides and dtype of tensors, or with the value itself."""
    return [
        (k, (tuple(v.shape), v.stride(), v.dtype) if isinstance(v, Tensor) else v)
        for k, v in state.items()
        if k != TRAIN_POINT
    ]


def _from_owner(
    state: State, layout: Layout, sharding: Sharding, announced: Sequence[tuple[str, Any]]
) -> State:
    """The whole state on the first process, sent by its owner; empty on the others."""
    assert layout.owner is not None
    whole: State = {}
    for key, about in announced:
        if not isinstance(about, tuple):
            whole[key] = about
        elif sharding.rank == layout.owner == 0:
            whole[key] = state[key].cpu()
        elif sharding.rank == layout.owner:
            dist.send(state[key].contiguous(), group=sharding.group, group_dst=0)
        elif sharding.rank == 0:
            shape, strides, dtype = about
            value = torch.empty(shape, dtype=dtype, device=layout.device)
            dist.recv(value, group=sharding.group, group_src=layout.owner)
            # Products of matrices round differently where these lie otherwise in memory.
            whole[key] = torch.empty_strided(shape, strides, dtype=dtype, device="cpu").copy_(value)
    return whole if sharding.rank == 0 else {}


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _copied(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(device, copy=True)
