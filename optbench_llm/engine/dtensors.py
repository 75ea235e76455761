"""The state of sharded parameters as DTensors, which torch.distributed.checkpoint saves and loads.

In a state dict every tensor has the shape that it has on one process, and lies over the processes
as a DTensor, so that any number of them can go on. What each process has its part of, cut as the
parameter is, stays where it is. Matrices that one process steps whole and 8-bit codes, whose blocks
are not rows, are sent to where their parts lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from optbench_llm.engine.resharding import Layout, State, is_array, whole_of
from optbench_llm.engine.sharding import Sharding
from optbench_llm.engine.storage import BLOCK


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
            whole = whole_of(value)
            if first:
                found[i][key] = whole.detach().cpu() if isinstance(whole, Tensor) else whole
    return found if first else None


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
        unknown = slot is None and is_array(value) and tuple(value.shape) == part
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
    assert layout.owner is not None
    here = sharding.rank == layout.owner
    found: State = {
        key: _dtensor(state[key], sharding.shape, sharding, sharding.dim)
        for key in sorted(state.keys() & {*layout.in_parts})
    }
    for key, about in announced:
        if isinstance(about, _About):
            nothing = torch.empty(0, dtype=about.dtype, device=layout.device)
            counts = [0] * len(sharding.sizes)
            counts[layout.owner] = about.shape.numel()
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
        sharding.placements(dim),
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
