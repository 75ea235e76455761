"""Parameters of which each process holds a part: where they lie, and who steps them.

FSDP2 cuts every parameter along one dimension. Where a rule takes any range of elements, each
process steps its own part; the sums that such a rule measures are added up over processes, all in
one all-reduce. Any other parameter is stepped whole by one process, its owner: its parts and those
of its gradient go there, in turns of bounded size, and the parts of its new value go back. Its
state lies with its owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from optbench_llm.engine.bound import sees_flat_pieces
from optbench_llm.engine.plan import Plan
from optbench_llm.engine.storage import BLOCK
from optbench_llm.rules.rule import Rule, Scope

Place = tuple[int, int]
#: Elements that one process steps for others in one turn, unless a single parameter has more.
TURN_ELEMENTS = 2**24


@dataclass(frozen=True)
class Sharding:
    """How one parameter of this ``shape`` is cut along ``dim`` over the processes of a group.

    The group is that of one dimension of a ``mesh``, ``mesh_dim``.
    """

    mesh: DeviceMesh
    mesh_dim: int
    shape: torch.Size
    dim: int

    @cached_property
    def group(self) -> dist.ProcessGroup:
        """The processes that hold the parts."""
        return self.mesh.get_group(self.mesh_dim)

    @cached_property
    def rank(self) -> int:
        """Of this process in the group."""
        return dist.get_rank(self.group)

    @cached_property
    def sizes(self) -> list[int]:
        """How long the part of each process is along ``dim``; the last ones may have nothing."""
        return self.cut(self.shape[self.dim])

    def cut(self, length: int) -> list[int]:
        """How long the part of each process is of a dimension of this length."""
        count = dist.get_world_size(self.group)
        step = -(-length // count)
        return [max(0, min(step, length - rank * step)) for rank in range(count)]

    def placements(self, dim: int) -> list[Placement]:
        """Those of a DTensor of this mesh that is cut along ``dim``."""
        kinds: list[Placement] = [Replicate()] * self.mesh.ndim
        kinds[self.mesh_dim] = Shard(dim)
        return kinds

    def shape_of(self, rank: int) -> tuple[int, ...]:
        """Shape of a process's part."""
        return (*self.shape[: self.dim], self.sizes[rank], *self.shape[self.dim + 1 :])

    def count_of(self, rank: int) -> int:
        """Elements of a process's part."""
        return self.shape.numel() // self.shape[self.dim] * self.sizes[rank]

    @cached_property
    def blockwise(self) -> bool:
        """Whether blocks of 8-bit codes of the parts are those of the whole."""
        starts_with = self.shape.numel() // self.shape[self.dim] * self.sizes[0]
        return self.dim == 0 and starts_with % BLOCK == 0

    @property
    def origin(self) -> int:
        """Position of the first element of this process's part, one of its own for each part.

        Along the first dimension that in the whole, so that the same random bits fall on it.
        """
        if self.dim:
            return self.rank * self.shape.numel()
        return sum(self.count_of(rank) for rank in range(self.rank))

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a tensor of the parameter's shape; a view."""
        return whole.narrow(self.dim, sum(self.sizes[: self.rank]), self.sizes[self.rank])


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: always the same object, which ``to_local`` is not."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def has_parts(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer steps parameters that are sharded (FSDP2)."""
    return any(is_part(p) for group in optimizer.param_groups for p in group["params"])


def is_part(p: Tensor) -> bool:
    """Whether a parameter lies over processes (FSDP2)."""
    return isinstance(p, DTensor)


def any_process(found: bool, params: Sequence[Tensor]) -> bool:
    """Whether it was found on any of the processes over which these parameters lie."""
    meshes = dict.fromkeys(p.device_mesh for p in params if isinstance(p, DTensor))
    device = local(params[0]).device if params else None
    # One after another with what is known by then, so that groups that overlap agree.
    for group in (group for mesh in meshes for group in mesh.get_all_groups()):
        answer = torch.tensor(int(found), device=device)
        dist.all_reduce(answer, dist.ReduceOp.MAX, group=group)
        found = bool(answer)
    return found


def sharding_of(optimizer: str, p: Tensor) -> Sharding | None:
    """How a parameter is cut; None where this process holds all of it.

    Raises RuntimeError for parameters that are cut in more ways than one, as by tensor parallelism.
    """
    if not isinstance(p, DTensor):
        return None
    mesh = p.device_mesh
    cut = [i for i, kind in enumerate(p.placements) if kind != Replicate() and mesh.size(i) > 1]
    if not cut:
        return None
    placement = p.placements[cut[0]]
    if len(cut) > 1 or type(placement) is not Shard:
        raise RuntimeError(
            f"optimizer {optimizer!r} steps parameters that are whole or cut along one dimension"
            f" (DDP, FSDP2), this one of shape {tuple(p.shape)} has the placements"
            f" {p.placements}; train without tensor parallelism"
        )
    return Sharding(mesh, cut[0], p.shape, placement.dim % p.ndim)


def steps_in_parts(rule: type[Rule], plan: Plan, p: Tensor) -> bool:
    """Whether each process may step its own part of a parameter; ``plan`` is the whole one's."""
    if len(plan) != 1 or plan[0].unit.turned or not sees_flat_pieces(rule, p):
        return False
    return all(slot.shape in ("full", "scalar") for slot in plan[0].slots)


class Spread(NamedTuple):
    """A sharded parameter that every process steps its part of, and which rule measures it."""

    place: Place
    p: Tensor
    sharding: Sharding
    rule: type[Rule]


def reduced(
    spread: Sequence[Spread], found: dict[Place, Tensor], device: torch.device
) -> tuple[dict[Place, Tensor], Tensor | None]:
    """Add up over processes what they measured of their parts; one all-reduce for each group.

    ``found`` are the sums of this process, by place. Returns the sums over the processes: those of
    the tensor by place, and those of the model, if a rule measures it.
    """
    sums: dict[Place, Tensor] = {}
    of_model: Tensor | None = None
    groups = dict.fromkeys(entry.sharding.group for entry in spread)
    for group in groups:
        own = [entry for entry in spread if entry.sharding.group is group]
        tensors = [entry for entry in own if entry.rule.scope is not Scope.MODEL]
        models = [entry for entry in own if entry.rule.scope is Scope.MODEL]
        lengths = [len(entry.rule.measures) for entry in tensors]
        if models:
            lengths.append(len(models[0].rule.measures))
        vector = torch.zeros(sum(lengths), dtype=torch.float64, device=device)
        pieces = vector.split(lengths)
        for entry, piece in zip(tensors, pieces, strict=False):
            if entry.place in found:
                piece.copy_(found[entry.place])
        for entry in models:
            if entry.place in found:
                pieces[-1].add_(found[entry.place].to(device))
        dist.all_reduce(vector, group=group)
        sums.update({e.place: piece for e, piece in zip(tensors, pieces, strict=False)})
        if models:
            of_model = pieces[-1] if of_model is None else of_model + pieces[-1]
    return sums, of_model


class Owned(NamedTuple):
    """A sharded parameter that one process steps whole."""

    place: Place
    p: Tensor
    sharding: Sharding
    owner: int

    @property
    def here(self) -> bool:
        """Whether this process is the one."""
        return self.sharding.rank == self.owner


@dataclass
class Owners:
    """Which process of its group steps a parameter: each time the one with the least to do."""

    _owners: dict[Place, int] = field(default_factory=dict)
    _loads: dict[dist.ProcessGroup, list[int]] = field(default_factory=dict)

    def assign(self, found: Sequence[tuple[Place, Tensor, Sharding]]) -> list[Owned]:
        """The owner of each; those that have one keep it."""
        new = [entry for entry in found if entry[0] not in self._owners]
        for place, p, sharding in sorted(new, key=lambda entry: -_work_on(entry[1])):
            loads = self._loads.setdefault(sharding.group, [0] * len(sharding.sizes))
            owner = loads.index(min(loads))
            loads[owner] += _work_on(p)
            self._owners[place] = owner
        return [Owned(*entry, self._owners[entry[0]]) for entry in found]


def _work_on(p: Tensor) -> int:
    """Roughly: products of a matrix with itself."""
    return p.numel() * min(p.shape[0], p.numel() // p.shape[0])


def turns(owned: Sequence[Owned]) -> Iterator[list[Owned]]:
    """Who steps what at once: each owner some of its own, of one dtype and bounded size."""
    kinds = [(entry.sharding.group, entry.p.dtype) for entry in owned]
    for kind in dict.fromkeys(kinds):
        queues: dict[int, list[Owned]] = {}
        for entry, own_kind in zip(owned, kinds, strict=True):
            if own_kind == kind:
                queues.setdefault(entry.owner, []).append(entry)
        while any(queues.values()):
            turn = []
            for queue in queues.values():
                elements = 0
                while queue and (not elements or elements + queue[0].p.numel() <= TURN_ELEMENTS):
                    elements += queue[0].p.numel()
                    turn.append(queue.pop(0))
            yield turn


def gathered(turn: Sequence[Owned], parts: Sequence[Tensor]) -> list[Tensor]:
    """Send this process's parts to their owners; the wholes of what it owns, in order.

    All processes of the group must call it; ``parts`` are in the order of ``turn``.
    """
    group, sharding = turn[0].sharding.group, turn[0].sharding
    ranks = range(len(sharding.sizes))
    sent = [[p for p, e in zip(parts, turn, strict=True) if e.owner == rank] for rank in ranks]
    own = [entry for entry in turn if entry.here]
    received = _exchange(
        sent, [[entry.sharding.shape_of(rank) for entry in own] for rank in ranks], group
    )
    return [
        torch.cat([received[rank][i] for rank in ranks], entry.sharding.dim)
        for i, entry in enumerate(own)
    ]


def scattered(turn: Sequence[Owned], wholes: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Send the parts of what this process owns; its own part of everything, in order.

    ``like`` is any tensor of the dtype and device.
    """
    group, sharding = turn[0].sharding.group, turn[0].sharding
    ranks = range(len(sharding.sizes))
    own = [entry for entry in turn if entry.here]
    cut = [
        whole.split(e.sharding.sizes, e.sharding.dim) for whole, e in zip(wholes, own, strict=True)
    ]
    received = _exchange(
        [[parts[rank] for parts in cut] for rank in ranks],
        [[e.sharding.shape_of(e.sharding.rank) for e in turn if e.owner == rank] for rank in ranks],
        group,
        like,
    )
    queues = [iter(tensors) for tensors in received]
    return [next(queues[entry.owner]) for entry in turn]


def _exchange(
    sent: list[list[Tensor]],
    shapes: list[list[tuple[int, ...]]],
    group: dist.ProcessGroup,
    like: Tensor | None = None,
) -> list[list[Tensor]]:
    """Send each process a list of tensors; ``shapes`` tells what comes from each."""
    flat = [tensor.reshape(-1) for tensors in sent for tensor in tensors]
    like = flat[0] if like is None else like
    counts = [[torch.Size(shape).numel() for shape in own] for own in shapes]
    output = like.new_empty(sum(map(sum, counts)))
    dist.all_to_all_single(
        output,
        torch.cat(flat) if flat else like.new_empty(0),
        [sum(own) for own in counts],
        [sum(tensor.numel() for tensor in tensors) for tensors in sent],
        group=group,
    )
    pieces = iter(output.split([count for own in counts for count in own]))
    return [[next(pieces).view(shape) for shape in own] for own in shapes]
