"""The state of sharded parameters: as DTensors for checkpoints, and a process's own part again.

In a state dict every tensor has the shape that it has on one process, and lies over the processes
as a DTensor, so that any number of them can go on. torch.distributed.checkpoint saves and loads it
as it does that of torch's own optimizers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

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


def as_dtensors(layouts: Sequence[Layout], states: Mapping[Any, State]) -> dict[Any, State]:
    """The states of the parameters by index, tensors of sharded ones as DTensors.

    All processes must call it where a parameter has an owner, or 8-bit codes lie in parts.
    """
    return dict(_one_by_one(layouts, states))


def joined(layouts: Sequence[Layout], states: Mapping[Any, State]) -> dict[Any, State] | None:
    """The states of the parameters by index as one process would have them, on the CPU.

    All processes must call it. Returns None on all but the first of each group.
    """
    groups = dict.fromkeys(x.sharding.group for x in layouts if x.sharding is not None)
    first = all(dist.get_rank(group) == 0 for group in groups)
    found: dict[Any, State] = {}
    for i, state in _one_by_one(layouts, states):
        if not isinstance(i, int):
            found[i] = state
            continue
        found[i] = {}
        for key, value in state.items():
            whole = _whole(value)
            if first:
                found[i][key] = whole.detach().cpu() if isinstance(whole, Tensor) else whole
    return found if first else None


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
        state = {key: v for key, v in state.items() if key == "step" or _is_array(v)}
    if sharding is not None and _lies_as(layout, state, p):
        state = {key: local(value) for key, value in state.items()}
    else:
        state = {key: _whole(state[key], device) for key in sorted(state)}
        state = _in_storages(layout, state, tuple(p.shape), name)
        if sharding is not None:
            state = {key: _cut(key, value, layout, sharding) for key, value in state.items()}
    return {key: _copied(value, layout.slots.get(key), device) for key, value in state.items()}


class _About(NamedTuple):
    """What other processes must know of a tensor to get their part of it."""

    shape: torch.Size
    dtype: torch.dtype


def _one_by_one(
    layouts: Sequence[Layout], states: Mapping[Any, State]
) -> Iterator[tuple[Any, State]]:
    """State after state, in the order of the parameters, then what hooks of users have added."""
    announced = _announced(layouts, states)
    for i, layout in enumerate(layouts):
        if i not in states:
            continue
        if layout.sharding is None:
            yield i, contiguous(states[i])
        elif layout.owner is None:
            yield i, _of_parts(states[i], layout, layout.sharding)
        else:
            yield i, _of_owner(states[i], layout, layout.sharding, announced[i])
    yield from ((key, value) for key, value in states.items() if key not in range(len(layouts)))


def contiguous(state: Any) -> Any:
    """The state of a parameter, with copies of tensors that lie in another order than their sizes.

    ``StateDictOptions(broadcast_from_rank0=True)`` sends memory as it lies, and the processes that
    get it would mix up their elements.
    """
    if not isinstance(state, dict):
        return state
    turned = {k: v for k, v in state.items() if type(v) is Tensor and not v.is_contiguous()}
    return state | {k: v.contiguous() for k, v in turned.items()} if turned else state


def _announced(
    layouts: Sequence[Layout], states: Mapping[Any, State]
) -> dict[int, list[tuple[str, Any]]]:
    """What the owners have: tensors by shape and dtype, numbers themselves."""
    every = enumerate(layouts)
    owned = [(i, x, x.sharding) for i, x in every if x.sharding and x.owner is not None]
    announced: dict[int, list[tuple[str, Any]]] = {}
    for group in dict.fromkeys(sharding.group for *_, sharding in owned):
        own = {
            i: [(k, _about(v)) for k, v in sorted(states[i].items()) if k not in layout.in_parts]
            for i, layout, sharding in owned
            if sharding.group is group and layout.owner == sharding.rank and i in states
        }
        found: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(found, own, group=group)
        announced |= dict(chain.from_iterable(entry.items() for entry in found))
    return announced


def _about(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _About(value.shape, value.dtype) if value.ndim else value.detach().cpu()


def _of_parts(state: State, layout: Layout, sharding: Sharding) -> State:
    """The state of a parameter of which each process steps its part."""
    ranks = range(len(sharding.sizes))
    found: State = {}
    part = sharding.shape_of(sharding.rank)
    for key, value in sorted(state.items()):
        slot = layout.slot_of(key)
        # What no slot of today knows was one under other hyperparameters, or is a hook's.
        unknown = slot is None and _is_array(value) and tuple(value.shape) == part
        if layout.lies_as_parameter(key) or unknown:
            found[key] = _dtensor(value, sharding.shape, sharding, sharding.dim)
        elif slot is not None:
            counts = [sharding.count_of(rank) for rank in ranks]
            if key != slot:
                counts = [-(-count // BLOCK) for count in counts]
            found[key] = _in_rows(value, counts, (sum(counts),), sharding)
        else:
            found[key] = value
    return found


def _of_owner(
    state: State, layout: Layout, sharding: Sharding, announced: Sequence[tuple[str, Any]]
) -> State:
    """The state of a parameter that its owner steps whole, in parts."""
    here = sharding.rank == layout.owner
    found: State = {
        key: _dtensor(state[key], sharding.shape, sharding, sharding.dim)
        for key in sorted(state.keys() & {*layout.in_parts})
    }
    for key, about in announced:
        if isinstance(about, _About):
            nothing = torch.empty(0, dtype=about.dtype, device=layout.device)
            counts = [0] * len(sharding.sizes)
            counts[layout.owner or 0] = about.shape.numel()
            value = state[key] if here else nothing
            found[key] = _in_rows(value, counts, about.shape, sharding)
        else:
            found[key] = about.to(layout.device) if isinstance(about, Tensor) else about
    return found


def _in_rows(
    value: Tensor, counts: Sequence[int], shape: Sequence[int], sharding: Sharding
) -> DTensor:
    """A tensor of this shape, of which processes have ``counts`` elements, cut between its rows."""
    rows = sharding.cut(shape[0])
    per_row = torch.Size(shape[1:]).numel()
    flat = _recut(value.reshape(-1), counts, [per_row * count for count in rows], sharding)
    return _dtensor(flat.view(rows[sharding.rank], *shape[1:]), shape, sharding, 0)


def _recut(
    flat: Tensor, counts: Sequence[int], wanted: Sequence[int], sharding: Sharding
) -> Tensor:
    """Send the elements of a vector cut into ``counts`` to where they are cut into ``wanted``."""
    rank = sharding.rank
    ends, wanted_ends = [*accumulate(counts)], [*accumulate(wanted)]

    def overlap(giver: int, taker: int) -> int:
        end = min(ends[giver], wanted_ends[taker])
        start = max(ends[giver] - counts[giver], wanted_ends[taker] - wanted[taker])
        return max(0, end - start)

    ranks = range(len(counts))
    output = flat.new_empty(wanted[rank])
    taken = [overlap(giver, rank) for giver in ranks]
    given = [overlap(rank, taker) for taker in ranks]
    dist.all_to_all_single(output, flat.contiguous(), taken, given, group=sharding.group)
    return output


def _dtensor(part: Tensor, shape: Sequence[int], sharding: Sharding, dim: int) -> DTensor:
    """A DTensor of this shape that is cut along ``dim``, from this process's part."""
    like = torch.empty(tuple(shape), device="meta")
    return DTensor.from_local(
        part,
        sharding.mesh,
        _placements(sharding, dim),
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _placements(sharding: Sharding, dim: int) -> list[Placement]:
    placements: list[Placement] = [Replicate()] * sharding.mesh.ndim
    placements[sharding.mesh_dim] = Shard(dim)
    return placements


def _whole(value: Any, device: torch.device | None = None) -> Any:
    """All of a value; every process of its mesh must ask where it is a DTensor."""
    if not isinstance(value, DTensor):
        return value
    return (value if device is None else value.to(device)).full_tensor()


def _lies_as(layout: Layout, state: State, p: Tensor) -> bool:
    """Whether each process has what it keeps of a parameter's state, so that nothing is sent."""
    sharding = layout.sharding
    if sharding is None:
        return False
    as_p = (sharding.mesh, tuple(_placements(sharding, sharding.dim)), sharding.shape)
    return all(
        isinstance(value, DTensor)
        and (value.device_mesh, value.placements, value.shape) == as_p
        and layout.lies_as_parameter(key)
        for key, value in state.items()
        if _is_array(value)
    )


def _is_array(value: Any) -> bool:
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
    """What this process keeps of one value of the state: nothing but a name where others have it."""
    if not _is_array(value):
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
