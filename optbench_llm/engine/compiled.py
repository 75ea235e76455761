"""Compiled phases: the code that a unit's layout needs, made once a process, called cheaply."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.graphs import Layout, compile_graph
from optbench_llm.engine.phases import Phases

#: Machine code by rule, phase, storages and layouts: all optimizers of a process share it.
_FUNCTIONS: dict[Any, Callable[..., Sequence[Tensor]]] = {}


class CompiledPhases:
    """Runs phases as compiled code; flat units of any length share theirs.

    ``compile_s`` are the seconds that this optimizer waited for compilations.
    """

    def __init__(self) -> None:
        self.compile_s = 0.0

    def run(self, phase: str, works: Sequence[Work], sums: Sequence[Tensor | None]) -> list[Any]:
        """Run one phase over units that share layout and scalars; what it returns for each.

        On a GPU several units a call spare launches; on a CPU one is best.
        """
        bound, vector = works[0].bound, works[0].vector
        assert vector is not None
        tensors = []
        for work in works:
            p, *parts = work.bound.inputs
            tensors += [p, work.bound.gradient(work.g), *parts]
        tensors.append(vector)
        tensors += [s for s in sums if s is not None]
        key = (phase, type(works[0].scalars), len(works), *_layout_key(bound, tensors[1]))
        function = bound.functions.get(key)
        if function is None:
            function = bound.functions[key] = self._function(phase, works, tensors)
        return list(function(*tensors)) or [None] * len(works)

    def _function(
        self, phase: str, works: Sequence[Work], tensors: Sequence[Tensor]
    ) -> Callable[..., Sequence[Tensor]]:
        bound, scalars_type = works[0].bound, type(works[0].scalars)
        phases = bound.phases
        layouts = _layouts(bound, tensors, len(works))
        variant = (phases.rule, phases.names, phases.storages, phase, scalars_type)
        key = (variant, layouts, torch.get_num_threads())
        if key not in _FUNCTIONS:
            start = time.perf_counter()
            _FUNCTIONS[key] = compile_graph(
                _function_of_tensors(phases, phase, scalars_type, len(works)), layouts
            )
            self.compile_s += time.perf_counter() - start
        return _FUNCTIONS[key]


def _layout_key(bound: BoundUnit, g: Tensor) -> tuple[Any, ...]:
    """What may differ from step to step: how the gradient lies."""
    return (g.dtype,) if bound.width is not None else (g.dtype, g.stride())


def _layouts(bound: BoundUnit, tensors: Sequence[Tensor], units: int) -> tuple[Layout, ...]:
    """Layouts of all inputs; those of flat units without their length."""
    layouts = [Layout.of(tensor) for tensor in tensors]
    if bound.width is None:
        return tuple(layouts)
    kinds = ["full", "full"]
    kinds += [
        slot.shape
        for slot, storage in zip(bound.slots, bound.phases.storages, strict=True)
        for _ in storage.suffixes
    ]
    for i, kind in enumerate(kinds * units):
        layouts[i] = layouts[i].of_any_length() if kind == "full" else layouts[i]
    return tuple(layouts)


def _function_of_tensors(
    phases: Phases, phase: str, scalars_type: Any, units: int
) -> Callable[..., list[Tensor]]:
    """A phase of several units as a function of tensors alone, in the order of ``run``."""
    body = phases.stage(phase)

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
        c = scalars_type(*next(rest).unbind())
        if phase == "update":
            sums = list(rest) or [None] * units
            results = [body(*piece, c, s) for piece, s in zip(pieces, sums, strict=True)]
        else:
            results = [body(*piece, c) for piece in pieces]
        return [result for result in results if result is not None]

    return run
