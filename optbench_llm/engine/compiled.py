"""Compiled phases: the code that a unit's layout needs, made once a process, called cheaply."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.graphs import (
    COUNT,
    LENGTH,
    Compiled,
    Layout,
    compile_graph,
    compiled_together,
)
from optbench_llm.engine.phases import Phases, arithmetic_dtype
from optbench_llm.engine.pieces import Sums, run_in_pieces
from optbench_llm.engine.stacks import of_stack

#: Machine code by rule, phase, storages and layouts: all optimizers of a process share it.
_FUNCTIONS: dict[Any, Compiled] = {}
#: Units of one call on a GPU, which waits for the host between calls; not yet measured there. A CPU
#: would gain less than it pays for compiling the longer code.
UNITS_PER_CALL = defaultdict(lambda: 1, cuda=8)


class CompiledPhases:
    """Runs phases as compiled code, flat units of any length by the same; the rest eagerly.

    ``compile_s`` are the seconds that this optimizer waited for compilations.
    """

    def __init__(self) -> None:
        self.compile_s = 0.0

    def prepare(self, works: Sequence[Work]) -> None:
        """Compile at once what units that were never stepped will call in this step.

        What it does not foresee is compiled when it is called.
        """
        new = [work for work in works if not work.bound.functions and work.bound.compilable]
        calls = {
            _code_of(phase, [work], tensors): (phase, [work], tensors)
            for work in new if UNITS_PER_CALL[work.bound.device_type] == 1
            for phase, tensors in _foreseen(work)
        }  # fmt: skip
        calls = {key: call for key, call in calls.items() if key not in _FUNCTIONS}
        if not calls:
            return
        began = time.perf_counter()
        with compiled_together():
            found = {key: _compile(*call) for key, call in calls.items()}
        _FUNCTIONS.update(found)
        self.compile_s += time.perf_counter() - began

    def run(self, phase: str, works: Sequence[Work], sums: Sums | None = None) -> list[Any]:
        """Run one phase of every unit; what it returns for each, in order."""
        sums = [None] * len(works) if sums is None else sums
        results: list[Any] = [None] * len(works)
        others: list[int] = []
        for i, work in enumerate(works):
            bound = work.bound
            if bound.cuts or bound.leftover is not None or UNITS_PER_CALL[bound.device_type] > 1:
                others.append(i)
                continue
            p, parts = bound.inputs
            tensors: list[Any] = [p, bound.gradient(work.g), *parts, work.vector]
            if sums[i] is not None:
                tensors.append(sums[i])
            found = self._execute(phase, (work,), tensors)
            if found:
                results[i] = found[0]
        if others:
            self._run_others(phase, works, sums, others, results)
        return results

    def _run_others(
        self,
        phase: str,
        works: Sequence[Work],
        sums: Sums,
        others: Sequence[int],
        results: list[Any],
    ) -> None:
        """Run those that are no call of their own: parts of one, or several in one."""
        for batch in _batches(works, others):
            found = self._call(phase, [works[i] for i in batch], [sums[i] for i in batch])
            if found:
                for i, result in zip(batch, found, strict=True):
                    results[i] = result
        for i in others:
            work = works[i]
            if work.bound.leftover is not None:
                rest = run_in_pieces(phase, work, sums[i], work.bound.leftover)
                results[i] = rest if results[i] is None or rest is None else results[i] + rest

    def _call(
        self, phase: str, works: Sequence[Work], sums: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Run a phase of units that share layout and scalars, in one call."""
        first = works[0]
        bound = first.bound
        last: list[Any] = [first.vector, *[s for s in sums if s is not None]]
        if bound.cuts:
            found = [self._execute(phase, works, tensors) for tensors in _inputs(first, last)]
            return [torch.stack(results).sum(0) for results in zip(*found, strict=True)]
        tensors: list[Any] = []
        for work in works:
            p, parts = work.bound.inputs
            tensors += (p, work.bound.gradient(work.g), *parts)
        return self._execute(phase, works, tensors + last)

    def _execute(self, phase: str, works: Sequence[Work], tensors: list[Any]) -> Sequence[Tensor]:
        first, g = works[0], tensors[1]
        bound = first.bound
        layout = g.stride() if bound.width is None else bound.width
        key = (phase, len(works), type(first.scalars), g.dtype, layout)
        if bound.cuts and bound.width is None:
            key = (*key, g.shape)
        function = bound.functions.get(key)
        if function is None:
            function = bound.functions[key] = self._function(phase, works, tensors)
        return function(tensors)

    def _function(self, phase: str, works: Sequence[Work], tensors: Sequence[Tensor]) -> Compiled:
        key = _code_of(phase, works, tensors)
        if key not in _FUNCTIONS:
            began = time.perf_counter()
            _FUNCTIONS[key] = _compile(phase, works, tensors)
            self.compile_s += time.perf_counter() - began
        return _FUNCTIONS[key]


def _code_of(phase: str, works: Sequence[Work], tensors: Sequence[Tensor]) -> Any:
    """What calls have in common that run the same code."""
    bound = works[0].bound
    phases = bound.phases
    variant = (phases.rule, phases.names, phases.storages, phases.rounding, phase)
    layouts = _layouts(bound, tensors, len(works))
    scalars_type = type(works[0].scalars)
    return (variant, scalars_type, layouts, len(works), bound.stacked, torch.get_num_threads())


def _compile(phase: str, works: Sequence[Work], tensors: Sequence[Tensor]) -> Compiled:
    bound = works[0].bound
    function = _function_of_tensors(
        bound.phases,
        phase,
        type(works[0].scalars),
        len(works),
        starts=any(cut.starts for cut in bound.cuts),
        stacked=bound.stacked,
    )
    return compile_graph(function, _layouts(bound, tensors, len(works)))


def _inputs(work: Work, last: Sequence[Any]) -> Iterator[list[Any]]:
    """The tensors of each call of a work that is in no batch; all calls get the ``last`` ones."""
    bound = work.bound
    g = bound.gradient(work.g)
    if not bound.cuts:
        p, parts = bound.inputs
        yield [p, g, *parts, *last]
    for cut in bound.cuts:
        yield [cut.p, g[cut.rows], *cut.parts, *cut.starts, *last]


def _foreseen(work: Work) -> Iterator[tuple[str, list[Any]]]:
    """The phases of a work and the tensors of their calls, with any numbers for the sums."""
    bound, sums_type = work.bound, work.bound.phases.sums_type
    measures = bool(bound.rule.measures) and work.updates
    for phase in ("measure", *work.stages) if measures else work.stages:
        last: list[Any] = [work.vector]
        if phase == "update" and measures:
            known = bound.p.new_empty(len(sums_type._fields), dtype=arithmetic_dtype(bound.p))
            last.append(known.repeat(len(bound.p), 1) if bound.stacked else known)
        for tensors in _inputs(work, last):
            yield phase, tensors


def _batches(works: Sequence[Work], places: Sequence[int]) -> Iterator[list[int]]:
    """Places of the works of each call: full batches of one kind, the rest one by one."""
    waiting: dict[Any, list[int]] = {}
    per_call = 1
    for i in places:
        work = works[i]
        bound = work.bound
        if not bound.compilable:
            continue
        own = UNITS_PER_CALL[bound.device_type]
        if own == 1 or bound.cuts:
            yield [i]
            continue
        per_call = own
        alike = bound.elements or (bound.p.shape, bound.p.stride(), work.g.stride())
        kind = (bound.phases, bound.width, alike, bound.p.dtype, work.g.dtype, id(work.vector))
        waiting.setdefault(kind, []).append(i)
    for batch in waiting.values():
        full = len(batch) // per_call * per_call
        yield from (batch[i : i + per_call] for i in range(0, full, per_call))
        yield from ([i] for i in batch[full:])


def _layouts(bound: BoundUnit, tensors: Sequence[Tensor], units: int) -> tuple[Layout, ...]:
    """Layouts of all inputs; those of flat units and of stacks for any size of their class."""
    layouts = [Layout.of(tensor) for tensor in tensors]
    if bound.stacked:
        own, (vector, *sums) = layouts[: 2 + len(bound.tensors)], layouts[2 + len(bound.tensors) :]
        rows = [layout.of_any_stack(*(COUNT, LENGTH)[: len(layout.shape)]) for layout in own]
        return (*rows, vector, *(layout.of_any_stack(COUNT, layout.shape[1]) for layout in sums))
    if bound.elements is None or bound.width is None:
        return tuple(layouts)
    full = [True, True]
    for slot, storage in zip(bound.slots, bound.phases.storages, strict=True):
        full += [slot.shape == "full"] * len(storage.suffixes)
    for unit in range(units):
        for i, follows_length in enumerate(full, start=unit * len(full)):
            if follows_length:
                layouts[i] = layouts[i].of_any_length(bound.elements, bound.width, unit)
    return tuple(layouts)


def _function_of_tensors(
    phases: Phases, phase: str, scalars_type: Any, units: int, *, starts: bool, stacked: bool
) -> Callable[..., list[Tensor]]:
    """A phase of several units as a function of tensors alone, in the order of ``run``.

    With ``starts`` they are cuts, and where they start in their units is among the tensors.
    With ``stacked`` each is a stack of units.
    """
    body = of_stack(phases.stage(phase)) if stacked else phases.stage(phase)

    def run(*tensors: Tensor) -> list[Tensor]:
        rest = iter(tensors)
        pieces = [
            (
                next(rest),
                next(rest),
                [[next(rest) for _ in storage.suffixes] for storage in phases.storages],
            )
            for _ in range(units)
        ]
        start = [next(rest) if starts else 0 for _ in range(units)]
        c = scalars_type(*next(rest).unbind())
        if phase == "update":
            sums = list(rest) or [None] * units
            results = [
                body(*piece, c, s, at) for piece, s, at in zip(pieces, sums, start, strict=True)
            ]
        else:
            results = [body(*piece, c, at) for piece, at in zip(pieces, start, strict=True)]
        return [result for result in results if result is not None]

    return run
