"""What a step communicates and keeps on any number of processes, from shapes alone.

Per process ``r`` of ``n``, in elements of fp32 unless said otherwise:

- parameters stepped in parts: nothing, but for one all-reduce of 8 bytes a sum if the rule measures
  sums, of each tensor or of the model;
- parameters stepped whole by an owner: parts of parameter and gradient come to it, parts of the new
  parameter go back. Sent are ``2 * (parts of what others own) + (what r owns less its parts)``,
  received the mirror image; all processes together send ``3 * (n - 1) / n`` of those parameters.

Nothing is measured here: a group of ``n`` processes is feigned, and the engine's own division tells
who owns what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

import optbench_llm as ob
from ledger.shapes import meta_model, sharded
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.plan import GroupPlan
from optbench_llm.engine.sharding import Owned, Spread, turns
from optbench_llm.rules.newton_schulz import orthogonalise
from optbench_llm.rules.rule import MATRIX_ROLES, Scope

SUM_BYTES, ELEMENT_BYTES = 8, 4
#: Rules that run Newton-Schulz on the units that are matrices.
ORTHOGONAL = ("muon", "scion")


@dataclass
class Share:
    """What one process has of a step.

    ``exchanged`` is what passes its buffers, what it keeps for itself included; ``buffer_bytes``
    the most that these and the gathered wholes take at once.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    state_bytes: int = 0
    elements: int = 0
    exchanged_bytes: int = 0
    buffer_bytes: int = 0
    flops: int = 0


@dataclass
class Plan:
    """A step on ``processes``; ``whole_elements`` are those that owners step, out of ``elements``.

    ``sums`` are the numbers in the one all-reduce; each of the ``turns`` takes three exchanges.
    """

    processes: int
    elements: int
    measures: bool
    sums: int = 0
    turns: int = 0
    whole_elements: int = 0
    shares: list[Share] = field(default_factory=list)

    @property
    def payload_bytes(self) -> int:
        """Of the all-reduce of sums, if there is one."""
        return SUM_BYTES * self.sums

    @property
    def ring_bytes(self) -> float:
        """What a ring sends from each process to reduce that."""
        return 2 * (self.processes - 1) / self.processes * self.payload_bytes

    @property
    def formula_bytes(self) -> float:
        """What a process sends on average where all parts are equal: the closed formula."""
        n = self.processes
        return 3 * ELEMENT_BYTES * self.whole_elements / n * (n - 1) / n

    def most(self, name: str) -> int:
        """Of the process that has the most of it."""
        return max(getattr(share, name) for share in self.shares)

    def mean(self, name: str) -> float:
        """Over processes."""
        return sum(getattr(share, name) for share in self.shares) / self.processes


def plans(shapes: str, processes: int, specs: Iterable[str]) -> dict[str, Plan]:
    """A step of each optimizer, by FSDP2, or on one process."""
    if processes == 1:
        model = meta_model(shapes)
        return {spec: _plan_alone(_optimizer(model, spec)) for spec in specs}
    with _feigned(processes):
        model = sharded(shapes, processes)
        return {spec: _plan(_optimizer(model, spec), processes) for spec in specs}


def _plan(optimizer: RuleOptimizer, processes: int) -> Plan:
    _, spread, owned = optimizer._stepper.division.divide(
        optimizer.param_groups, optimizer.state, lambda *_: True
    )
    measuring = [entry for entry in spread if entry.rule.measures]
    found = Plan(processes, _elements(optimizer), bool(optimizer.rule.measures))
    found.shares = [Share() for _ in range(processes)]
    found.sums = _sums(measuring)
    _add_parts(found, optimizer, spread)
    _add_owned(found, optimizer, owned)
    return found


def _plan_alone(optimizer: RuleOptimizer) -> Plan:
    found = Plan(1, _elements(optimizer), bool(optimizer.rule.measures))
    share = Share(elements=found.elements, state_bytes=optimizer.planned_state_bytes())
    share.state_bytes -= 4 * found.elements * len(optimizer.rule.kept_by_program)
    for number, group in enumerate(optimizer.param_groups):
        share.flops += sum(_flops(optimizer, number, p) for p in group["params"])
    found.shares = [share]
    return found


def _add_parts(found: Plan, optimizer: RuleOptimizer, spread: Sequence[Spread]) -> None:
    known: dict[Any, int] = {}
    for entry in spread:
        sharding, number = entry.sharding, entry.place[0]
        elements = entry.p.numel() if sharding.blockwise else 0
        for rank, share in enumerate(found.shares):
            if sharding.count_of(rank):
                key = (number, shape := sharding.shape_of(rank), elements)
                if key not in known:
                    part = torch.empty(shape, device="meta")
                    known[key] = _state_bytes(optimizer, number, part, elements)
                share.elements += sharding.count_of(rank)
                share.state_bytes += known[key]


def _add_owned(found: Plan, optimizer: RuleOptimizer, owned: Sequence[Owned]) -> None:
    found.whole_elements = sum(entry.p.numel() for entry in owned)
    for turn in turns(owned):
        found.turns += 1
        for rank, share in enumerate(found.shares):
            own = sum(entry.p.numel() for entry in turn if entry.owner == rank)
            parts = sum(entry.sharding.count_of(rank) for entry in turn)
            kept = sum(entry.sharding.count_of(rank) for entry in turn if entry.owner == rank)
            share.elements += own
            share.sent_bytes += ELEMENT_BYTES * (2 * (parts - kept) + own - kept)
            share.received_bytes += ELEMENT_BYTES * (2 * (own - kept) + parts - kept)
            share.exchanged_bytes += ELEMENT_BYTES * 3 * (own + parts)
            # When new values go back: parameters and gradients, the former packed, and what comes.
            share.buffer_bytes = max(share.buffer_bytes, ELEMENT_BYTES * (3 * own + parts))
    known: dict[Any, tuple[int, int]] = {}
    for entry in owned:
        key = (number := entry.place[0], entry.p.shape)
        if key not in known:
            whole = torch.empty(entry.p.shape, device="meta")
            state = _state_bytes(optimizer, number, whole, whole.numel())
            known[key] = (state, _flops(optimizer, number, whole))
        share = found.shares[entry.owner]
        share.state_bytes += known[key][0]
        share.flops += known[key][1]


def _sums(spread: Sequence[Spread]) -> int:
    """Numbers in the one all-reduce: those of each tensor, those of the model once."""
    of_tensors = [len(e.rule.measures) for e in spread if e.rule.scope is not Scope.MODEL]
    of_model = {len(e.rule.measures) for e in spread if e.rule.scope is Scope.MODEL}
    return sum(of_tensors) + sum(of_model)


def _state_bytes(optimizer: RuleOptimizer, number: int, p: Tensor, elements: int) -> int:
    """Bytes of the slots of what a process steps of a parameter of a group."""
    return sum(view.state_bytes for view in _group(optimizer, number).plan(p, elements))


def _group(optimizer: RuleOptimizer, number: int) -> GroupPlan:
    return optimizer._planner.groups(optimizer.param_groups)[number]


def _flops(optimizer: RuleOptimizer, number: int, p: Tensor) -> int:
    """Of Newton-Schulz on the units of a parameter."""
    group, total = _group(optimizer, number), 0
    if group.rule is not optimizer.rule or group.rule.__name__.lower() not in ORTHOGONAL:
        return 0
    for view in group.plan(p, p.numel()):
        if view.unit.role in MATRIX_ROLES and len(view.shape) == 2:
            total += _newton_schulz_flops(*view.shape)
    return total


_known_flops: dict[tuple[int, int], int] = {}


def _newton_schulz_flops(rows: int, columns: int) -> int:
    key = (min(rows, columns), max(rows, columns))
    if key not in _known_flops:
        with FlopCounterMode(display=False) as counter:
            orthogonalise(torch.empty(key, device="meta"))
        _known_flops[key] = counter.get_total_flops()
    return _known_flops[key]


def _optimizer(model: Any, spec: str) -> RuleOptimizer:
    optimizer = ob.create_optimizer(model, spec, engine="eager")
    assert isinstance(optimizer, RuleOptimizer)
    return optimizer


def _elements(optimizer: RuleOptimizer) -> int:
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


@contextmanager
def _feigned(processes: int) -> Iterator[None]:
    """A group of this many processes, of which this is the first and the only one."""
    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
