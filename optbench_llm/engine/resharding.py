"""Where the state of a parameter lies, and what a process takes of it from a checkpoint.

A checkpoint has the state as one process would have it, so that any number of them can go on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from optbench_llm.engine.blockwise import SCALE
from optbench_llm.engine.sharding import Sharding, local
from optbench_llm.engine.storage import BLOCK, Blockwise, Plain, Storage

State = dict[str, Any]
#: What evaluation mode puts aside: the part of the parameter that each process holds.
TRAIN_POINT = "train_point"


@dataclass(frozen=True)
class Layout:
    """Where the state of one parameter lies.

    ``sharding`` is None where each process has all of it. ``owner`` is the process that has it all,
    None where each has its part. ``storages`` are those of the slots in the parameter's shape.
    ``slots`` are the tensors of all slots that this process has, or its owner, as they are begun,
    on the meta device. Of what bears a name in ``in_parts`` each process keeps its own part,
    whoever steps the parameter.
    """

    sharding: Sharding | None
    owner: int | None
    storages: Mapping[str, Storage]
    slots: Mapping[str, Tensor]
    in_parts: Collection[str]
    device: torch.device

    def slot_of(self, key: str) -> str | None:
        """The slot in the parameter's shape that a tensor of the state belongs to."""
        names = (name for name in (key, key.removesuffix(SCALE)) if name in self.storages)
        return next(names, None)

    @property
    def elsewhere(self) -> bool:
        """Whether other processes step the parameter, or the parts of it that are not empty."""
        if self.sharding is None:
            return False
        if self.owner is not None:
            return self.owner != self.sharding.rank
        return not self.sharding.sizes[self.sharding.rank]

    def lies_as_parameter(self, key: str) -> bool:
        """Whether each process has its part of a tensor, cut as the parameter is."""
        plain = isinstance(self.storages.get(key), Plain)
        return key in self.in_parts or (self.owner is None and plain)

    def names_without_tensors(self) -> State:
        """Empty tensors for the slots that other processes have, and this one nothing of.

        torch.distributed.checkpoint looks up in the state what it is to load.
        """
        if not self.elsewhere:
            return {}
        return {
            key: torch.empty_like(like, device=self.device)
            if self.owner is None
            else torch.empty(0, dtype=like.dtype, device=self.device)
            for key, like in self.slots.items()
            # A number of the whole tensor is known where there are parts of it.
            if like.ndim or self.owner is not None
        }


def own_part(layout: Layout, state: State, p: Tensor, name: str) -> State:
    """What this process keeps of one parameter's state from a checkpoint, on the device of ``p``.

    ``name`` is the parameter's for messages. Slots that the checkpoint has in another storage, as
    where parts end within blocks of 8 bits, are stored anew. All lie in memory as they are begun:
    products of matrices round differently where these lie otherwise.

    All processes must call it where the state has DTensors.

    Raises ValueError for a slot of another shape than the parameter's.
    """
    sharding, device = layout.sharding, local(p.detach()).device
    if layout.elsewhere:
        # It would not go on with numbers that others have, and which the next state dict asks for.
        state = {key: v for key, v in state.items() if key == "step" or is_array(v)}
    if sharding is not None and _lies_as(layout, state, p):
        state = {key: local(value) for key, value in state.items()}
    else:
        state = {key: whole_of(state[key], device) for key in sorted(state)}
        state = _in_storages(layout, state, tuple(p.shape), name)
        if sharding is not None:
            state = {key: _cut(key, value, layout, sharding) for key, value in state.items()}
    return {key: _copied(value, layout.slots.get(key), device) for key, value in state.items()}


def whole_of(value: Any, device: torch.device | None = None) -> Any:
    """All of a value; every process of its mesh must ask where it is a DTensor."""
    if not isinstance(value, DTensor):
        return value
    here: Any = value if device is None else value.to(device)
    return here.full_tensor()


def _lies_as(layout: Layout, state: State, p: Tensor) -> bool:
    """Whether each process has what it keeps of a parameter's state, so that nothing is sent."""
    sharding = layout.sharding
    if sharding is None:
        return False
    as_p = (sharding.mesh, tuple(sharding.placements(sharding.dim)), sharding.shape)
    return all(
        isinstance(value, DTensor)
        and (value.device_mesh, value.placements, value.shape) == as_p
        and layout.lies_as_parameter(key)
        for key, value in state.items()
        if is_array(value)
    )


def is_array(value: Any) -> bool:
    """Whether it is a tensor of elements, not a single number."""
    return isinstance(value, Tensor) and value.ndim > 0


def _in_storages(layout: Layout, state: State, shape: tuple[int, ...], name: str) -> State:
    """The state with every slot of the parameter's shape in the storage that is expected."""
    state = dict(state)
    for slot, storage in layout.storages.items():
        if slot not in state:
            continue
        value = state[slot]
        in_codes = not value.is_floating_point()
        elements = torch.Size(shape).numel()
        if value.numel() != elements or not (in_codes or tuple(value.shape) == shape):
            raise ValueError(
                f"the state's slot {slot!r} of {name} has the shape {tuple(value.shape)}, the"
                f" parameter {shape}: this is the state of another model"
            )
        if in_codes == isinstance(storage, Blockwise):
            continue
        # Beside numbers in full torch may leave the scales that were in the state before.
        scale = state.pop(slot + SCALE, None)
        if in_codes:
            like = torch.empty(shape, dtype=torch.float32, device=value.device)
            positive = value.dtype == torch.uint8
            state[slot] = Blockwise(positive).decode((value, scale), like)
        else:
            state[slot], state[slot + SCALE] = storage.encode(value)
    return state


def _cut(key: str, value: Any, layout: Layout, sharding: Sharding) -> Any:
    """What this process keeps of a value of the state: nothing but a name where others have it."""
    if not is_array(value):
        return value
    unknown = layout.owner is None and layout.slot_of(key) is None
    if layout.lies_as_parameter(key) or (unknown and value.shape == sharding.shape):
        return sharding.part(value)
    if layout.elsewhere:
        return value.new_empty(0)
    if layout.owner is not None or unknown:
        return value
    start, count = sharding.origin, sharding.count_of(sharding.rank)
    if layout.slot_of(key) == key:
        return value[start : start + count]
    return value[start // BLOCK : -(-(start + count) // BLOCK)]


def _copied(value: Any, like: Tensor | None, device: torch.device) -> Any:
    """A copy of a tensor, that lies in memory as one ``like`` it if there is one of its shape."""
    if not isinstance(value, Tensor):
        return value
    if like is None or like.shape != value.shape:
        return value.detach().to(device, copy=True)
    strides = like.stride()
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=device).copy_(value)
