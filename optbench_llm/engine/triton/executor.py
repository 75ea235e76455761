"""Runs stages of a rule as one Triton kernel for all units of a kind."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.pieces import EagerPhases, Sums
from optbench_llm.engine.storage import Blockwise
from optbench_llm.engine.sums import together
from optbench_llm.engine.triton.batch import ALIGNMENT, Batch, Numbers, sent
from optbench_llm.engine.triton.kernels import Variant
from optbench_llm.engine.triton.operations import TYPES, Unsupported
from optbench_llm.engine.triton.templates import NUMBERS, Form
from optbench_llm.rules.rule import Scope

#: Sets of units that are remembered, since gradients may come and go; each takes 8 bytes for 1,024
#: elements on the device.
MOST_PLANS = 8


class Kind(NamedTuple):
    """What works of one batch have in common."""

    variant: Variant
    stages: tuple[str, ...]
    device: torch.device
    row_major: bool


class _Plan(NamedTuple):
    """The batches of a set of works, the places of these in each, and of those in none.

    ``units`` are the works' units, which it does not keep: nor their memory, that may be offloaded,
    or that of one turn.
    """

    batches: list[tuple[Batch, list[int]]]
    others: frozenset[int]
    units: list[weakref.ref[BoundUnit]]

    def lives(self) -> bool:
        """Whether all units are there, so that nothing else has taken their identity."""
        return None not in [unit() for unit in self.units]


class TritonPhases:
    """Runs phases as kernels, and eagerly where a rule sees whole matrices, or in float64.

    A step sends all its numbers in one copy to each device; nothing is read there.

    ``compile_s`` are the seconds that this optimizer waited for kernels, Triton's compiler among
    it.
    """

    of_vectors = False

    def __init__(self) -> None:
        self.compile_s = 0.0
        self._others = EagerPhases()
        self._plans: dict[Any, _Plan] = {}
        self._places: dict[int, tuple[Batch, int]] = {}
        self._numbers: dict[Batch, Numbers] = {}

    def prepare(self, works: Sequence[Work]) -> None:
        """Send the numbers of a step, and make what its units need that were never stepped."""
        plan = self._plan(works)
        self._places = {
            id(works[i]): (batch, row)
            for batch, places in plan.batches
            for row, i in enumerate(places)
        }
        self._others.prepare([works[i] for i in plan.others])
        self._send(plan, works)

    def run(self, phase: str, works: Sequence[Work], sums: Sums | None = None) -> list[Any]:
        """Run one phase of every unit; what ``measure`` returns for each, in order."""
        results: list[Any] = [None] * len(works)
        batches: dict[Batch, list[int]] = {}
        others: list[int] = []
        for i, work in enumerate(works):
            place = self._places.get(id(work))
            if place is None:
                others.append(i)
            else:
                batches.setdefault(place[0], []).append(i)
        for batch, places in batches.items():
            assert len(places) == batch.units, "a stage of a part of a batch"
            given = None if sums is None else _known([sums[i] for i in places])
            before = batch.compile_s
            found = batch.run(phase, self._numbers[batch], given)
            self.compile_s += batch.compile_s - before
            if phase == "update":
                # Autograd cannot see it, and is to refuse graphs that had the old values.
                increment_version([works[i].bound.p for i in places])
            if found is not None:
                for i, own in zip(places, found.unbind(), strict=True):
                    results[i] = own
        if others:
            rest = self._others.run(
                phase, [works[i] for i in others], sums and [sums[i] for i in others]
            )
            for i, own in zip(others, rest, strict=True):
                results[i] = own
        return results

    def _plan(self, works: Sequence[Work]) -> _Plan:
        key = tuple(
            (id(w.bound), w.bound.moves, w.g.dtype, w.stages, type(w.scalars)) for w in works
        )
        plan = self._plans.get(key)
        if plan is None or not plan.lives():
            self._plans = {known: own for known, own in self._plans.items() if own.lives()}
            began = time.perf_counter()
            plan = self._planned(works)
            self.compile_s += time.perf_counter() - began
            if plan.batches:
                if len(self._plans) >= MOST_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
        return plan

    def _planned(self, works: Sequence[Work]) -> _Plan:
        kinds: dict[Kind, list[int]] = {}
        for i, work in enumerate(works):
            kind = kind_of(work)
            if kind is not None:
                kinds.setdefault(kind, []).append(i)
        batches: list[tuple[Batch, list[int]]] = []
        for kind, places in kinds.items():
            batch = Batch(kind.variant, [works[i].bound for i in places])
            try:
                batch.make(stages_of(works[places[0]]))
            except Unsupported:
                continue
            batches.append((batch, places))
        taken = {i for _, places in batches for i in places}
        others = frozenset(range(len(works))) - taken
        return _Plan(batches, others, [weakref.ref(work.bound) for work in works])

    def _send(self, plan: _Plan, works: Sequence[Work]) -> None:
        """Send what is new in this step to the batches, in one copy for each device."""
        self._numbers = {}
        of_device: dict[torch.device, list[tuple[Batch, np.ndarray, np.ndarray]]] = {}
        for batch, places in plan.batches:
            rows: dict[int, int] = {}
            scalars: list[Any] = []
            numbers = np.empty((len(places), NUMBERS), dtype=np.int64)
            for row, i in enumerate(places):
                work = works[i]
                # It lives as long as its work, until the step is over.
                g = work.g = batch.gradient(work)
                own = rows.setdefault(id(work.scalars), len(scalars))
                if own == len(scalars):
                    scalars.append(work.scalars)
                numbers[row] = g.data_ptr(), own
            of_device.setdefault(batch.device, []).append(
                (batch, numbers, np.array(scalars, dtype=np.float32))
            )
        for device, batches in of_device.items():
            arrived = iter(_sent_together([part for _, *both in batches for part in both], device))
            for batch, numbers, _ in batches:
                aligned = not (numbers[:, 0] % ALIGNMENT).any()
                self._numbers[batch] = Numbers(next(arrived), next(arrived), aligned)


def kind_of(work: Work) -> Kind | None:
    """What a work shares with others of its batch; None for one that kernels do not step."""
    bound, g = work.bound, work.g
    form = form_of(bound)
    if form is None:
        return None
    p = bound.p
    dims = p.ndim if form is Form.CHANNELS else 1
    phases = bound.phases
    dtypes = (p.dtype, g.dtype, *(tensor.dtype for tensor in bound.tensors))
    numbers, scalars = frozenset(_numbers_among(bound)), type(work.scalars)
    of_phases = (phases.rule, phases.names, phases.storages, phases.rounding)
    if not TYPES.keys() >= {*dtypes}:
        return None
    variant = Variant(*of_phases, form, dims, dtypes, numbers, scalars)
    row_major = form is not Form.CHANNELS or p.ndim > 2 or p.stride(1) == 1
    return Kind(variant, work.stages, p.device, row_major)


def form_of(bound: BoundUnit) -> Form | None:
    """How kernels cut a unit into tiles; None for what they do not step."""
    p, storages = bound.p, bound.phases.storages
    sliced = all(slot.shape in ("full", "scalar") for slot in bound.slots)
    if bound.rule.scope is Scope.MATRIX or bound.stacked or not bound.in_memory or not sliced:
        return None
    blockwise = any(isinstance(storage, Blockwise) for storage in storages)
    if bound.flat:
        return Form.BLOCKS if blockwise else Form.FLAT
    if p.ndim < 2 or blockwise or not bound.rule.by_channel:
        return None
    if p.ndim > 2:
        return Form.CHANNELS if p.is_contiguous() else None
    alike = all(t.stride() == p.stride() for t in bound.tensors if t.ndim)
    return Form.CHANNELS if 1 in p.stride() and alike else None


def stages_of(work: Work) -> list[str]:
    """The phases that a step of a work runs."""
    measured = bool(work.bound.rule.measures) and work.updates
    return [*work.stages, *(["measure"] if measured else [])]


def _numbers_among(bound: BoundUnit) -> Iterable[int]:
    """The places of the parts of slots that have one element."""
    place = 0
    for slot, storage in zip(bound.slots, bound.phases.storages, strict=True):
        for _ in storage.suffixes:
            if slot.shape == "scalar":
                yield place
            place += 1


def _known(sums: Sequence[Tensor | None]) -> Tensor | None:
    """What units know of their sums: a row for each, or one for all where it is the same."""
    found = [own for own in sums if own is not None]
    if not found:
        return None
    assert len(found) == len(sums)
    return found[0] if all(own is found[0] for own in found) else together(found)


def _sent_together(parts: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """These arrays on a device, in one copy."""
    ends = np.cumsum([-(-part.nbytes // ALIGNMENT) * ALIGNMENT for part in parts])
    whole = np.zeros(int(ends[-1]), dtype=np.uint8)
    starts = [0, *ends[:-1]]
    for part, start in zip(parts, starts, strict=True):
        whole[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    arrived = sent(whole, device)
    dtypes = {np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}
    return [
        arrived[start : start + part.nbytes].view(dtypes[part.dtype]).view(part.shape)
        for part, start in zip(parts, starts, strict=True)
    ]
