"""Compiled phases: the code that a unit's layout needs, made once a process, called cheaply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

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


class CompiledPhases:
    """Runs phases as compiled code, flat units of any length by the same; the rest eagerly.

    ``compile_s`` are the seconds that this optimizer waited for compilations.
    """

    of_vectors = True

    def __init__(self) -> None:
        self.compile_s = 0.0

    def prepare(self, works: Sequence[Work]) -> None:
        """Compile at once what units that were never stepped will call in this step.

        What it does not foresee is compiled when it is called.
        """
        new = [work for work in works if not work.bound.functions and work.bound.compilable]
        calls = {
            _code_of(phase, work, tensors): (phase, work, tensors)
            for work in new
            for phase, tensors in _foreseen(work)
        }
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
        results = [self._run(phase, work, own) for work, own in zip(works, sums, strict=True)]
        if phase == "update":
            # Autograd cannot see it, and is to refuse graphs that had the old values.
            increment_version([work.bound.p for work in works])
        return results

    def _run(self, phase: str, work: Work, sums: Tensor | None) -> Tensor | None:
        """Run a phase of one unit: in one call, in several, or what is left of it eagerly."""
        bound = work.bound
        last = [work.vector] if sums is None else [work.vector, sums]
        result: Tensor | None = None
        if bound.cuts:
            found = [self._execute(phase, work, tensors) for tensors in _inputs(work, last)]
            # Each call has one result or none.
            parts = [own for results in found for own in results]
            result = torch.stack(parts).sum(0) if parts else None
        elif bound.compilable:
            p, parts = bound.inputs
            found = self._execute(phase, work, [p, bound.gradient(work.g), *parts, *last])
            result = found[0] if found else None
        if bound.leftover is None:
            return result
        rest = run_in_pieces(phase, work, sums, bound.leftover)
        return rest if result is None or rest is None else result + rest

    def _execute(self, phase: str, work: Work, tensors: list[Any]) -> Sequence[Tensor]:
        bound, g = work.bound, tensors[1]
        layout = g.stride() if bound.width is None else bound.width
        key = (phase, type(work.scalars), g.dtype, layout)
        if bound.cuts and bound.width is None:
            key = (*key, g.shape)
        function = bound.functions.get(key)
        if function is None:
            function = bound.functions[key] = self._function(phase, work, tensors)
        return function(tensors)

    def _function(self, phase: str, work: Work, tensors: Sequence[Tensor]) -> Compiled:
        key = _code_of(phase, work, tensors)
        if key not in _FUNCTIONS:
            began = time.perf_counter()
            with compiled_together():
                function = _compile(phase, work, tensors)
            _FUNCTIONS[key] = function
            self.compile_s += time.perf_counter() - began
        return _FUNCTIONS[key]


def _code_of(phase: str, work: Work, tensors: Sequence[Tensor]) -> Any:
    """What calls have in common that run the same code."""
    bound, phases = work.bound, work.bound.phases
    variant = (phases.rule, phases.names, phases.storages, phases.rounding, phase)
    layouts = _layouts(bound, tensors)
    return (variant, type(work.scalars), layouts, bound.stacked, torch.get_num_threads())


def _compile(phase: str, work: Work, tensors: Sequence[Tensor]) -> Compiled:
    bound = work.bound
    function = _function_of_tensors(
        bound.phases,
        phase,
        type(work.scalars),
        starts=any(cut.starts for cut in bound.cuts),
        stacked=bound.stacked,
    )
    return compile_graph(function, _layouts(bound, tensors))


def _inputs(work: Work, last: Sequence[Any]) -> Iterator[list[Any]]:
    """The tensors of each call of a work; all calls get the ``last`` ones."""
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


def _layouts(bound: BoundUnit, tensors: Sequence[Tensor]) -> tuple[Layout, ...]:
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
    for i, follows_length in enumerate(full):
        if follows_length:
            layouts[i] = layouts[i].of_any_length(bound.elements, bound.width)
    return tuple(layouts)


def _function_of_tensors(
    phases: Phases, phase: str, scalars_type: Any, *, starts: bool, stacked: bool
) -> Callable[..., list[Tensor]]:
    """A phase of a unit as a function of tensors alone, in the order of ``run``.

    With ``starts`` it is a cut, and where it starts in its unit is among the tensors.
    With ``stacked`` it is a stack of units.
    """
    body = of_stack(phases.stage(phase)) if stacked else phases.stage(phase)

    def run(p: Tensor, g: Tensor, *tensors: Tensor) -> list[Tensor]:
        rest = iter(tensors)
        stored = [[next(rest) for _ in storage.suffixes] for storage in phases.storages]
        start = next(rest) if starts else 0
        c = scalars_type(*next(rest).unbind())
        sums = [next(rest, None)] if phase == "update" else []
        result = body(p, g, stored, c, *sums, start)
        return [] if result is None else [result]

    return run
