"""Triton kernels of a rule's stages: traced, emitted, compiled at their first launch.

To import this module is to import Triton.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._decomp import core_aten_decompositions

from optbench_llm.engine.phases import Phases
from optbench_llm.engine.storage import BLOCK, Storage
from optbench_llm.engine.tracing import traced
from optbench_llm.engine.triton.emitter import Inputs, Source, emit
from optbench_llm.engine.triton.templates import Form
from optbench_llm.rules.rule import Rule

#: Sizes that stand for any while tracing: no two are the same, none is a constant of rules.
_SIZES = {
    Form.FLAT: (1013,),
    Form.BLOCKS: (7, BLOCK),
    Form.CHANNELS: (11, 17, 5, 3),
}


@triton.jit
def load(pointers, inside, WHOLE: tl.constexpr):
    """What is inside of a tile."""
    if WHOLE:
        return tl.load(pointers)
    else:
        return tl.load(pointers, inside, 0)


@triton.jit
def store(pointers, values, inside, WHOLE: tl.constexpr):
    """Store what is inside of a tile."""
    if WHOLE:
        tl.store(pointers, values)
    else:
        tl.store(pointers, values, inside)


@triton.jit
def within(values, inside, other: tl.constexpr, WHOLE: tl.constexpr):
    """The values inside of a tile, another one elsewhere."""
    if WHOLE:
        return values
    else:
        return tl.where(inside, values, other)


@triton.jit
def larger(a, b):
    """The larger one; NaN where one is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """The smaller one; NaN where one is NaN."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_maximum(values):
    """The largest of each row; NaN where one is NaN, which a GPU's maximum would drop."""
    largest = tl.max(values, 1)
    lost = tl.max((values != values).to(tl.int32), 1)
    # For all that its annotations say, a reduction may return tuples.
    return tl.where(lost > 0, float("nan"), largest)[:, None]  # pyright: ignore


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for NaN, as torch has it."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def to_bfloat16(x):
    """Rounded to nearest, ties to even; by its bits, the same on every device."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def add_up(out, first, sums, COUNT: tl.constexpr, TILE: tl.constexpr):
    """The sum of a tensor's partial sums, those of its tiles, always in the same order.

    One program for each tensor and each of its ``COUNT`` sums. ``out`` has a row of partial sums
    for each of these, and in it those of all tiles; the tensor's begin at its ``first``.
    """
    tensor, number = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(first + tensor), tl.load(first + tensor + 1)
    row = out + number * tl.load(first + tl.num_programs(0))
    total = tl.zeros((TILE,), tl.float32)
    for place in range(begin, end, TILE):
        index = place + tl.arange(0, TILE)
        total += tl.load(row + index, index < end, 0.0)
    tl.store(sums + tensor * COUNT + number, tl.sum(total))


@triton.jit
def take_over(
    table,
    kept,
    PLACE: tl.constexpr,
    NUMBER: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Write the new value of a slot of one element where it belongs; a program for each tensor."""
    tensor = tl.program_id(0)
    pointer = tl.load(table + tensor * WIDTH + PLACE).to(tl.pointer_type(tl.float32))
    tl.store(pointer, tl.load(kept + tensor * COUNT + NUMBER))


@triton.jit
def count_up(numbers):
    """Add one to the first of the numbers."""
    tl.store(numbers, tl.load(numbers) + 1)


_LIBRARY = {
    "tl": tl,
    "triton": triton,
    **{f.__name__: f for f in (load, store, within, larger, smaller, row_maximum, sign)},
    "to_bfloat16": to_bfloat16,
}


@dataclass(frozen=True)
class Variant:
    """What a kernel is made for; all tensors that share it share launches.

    The first four are a :class:`Phases`'s. ``dims`` is the parameter's count of dimensions where
    the rule sees its rows, ``dtypes`` are those of parameter, gradient and all parts of the slots,
    ``numbers`` the places of those parts that have one element. ``scalars`` is the named tuple of a
    step's numbers.
    """

    rule: type[Rule]
    names: tuple[str, ...]
    storages: tuple[Storage, ...]
    rounding: str
    form: Form
    dims: int
    dtypes: tuple[torch.dtype, ...]
    numbers: frozenset[int]
    scalars: Any

    def inputs(self, phase: str) -> Inputs:
        """What the kernel of a stage gets."""
        phases = self._phases()
        parts = [
            slot + part
            for slot, storage in zip(self.names, self.storages, strict=True)
            for part in storage.suffixes
        ]
        sums = phases.sums_type._fields if phase == "update" and self.rule.measures else ()
        return Inputs(
            tuple(parts),
            tuple(f"c.{name}" for name in self.scalars._fields),
            tuple(f"sums.{name}" for name in sums),
        )

    def function(self, phase: str) -> Callable[..., Sequence[Tensor]]:
        """A stage as a function of tensors alone, in the order of its :meth:`inputs`."""
        phases, scalars = self._phases(), self.scalars
        measured = phase == "update" and bool(self.rule.measures)

        def run(p: Tensor, g: Tensor, *rest: Tensor) -> Sequence[Tensor]:
            given = iter(rest)
            stored = [[next(given) for _ in storage.suffixes] for storage in phases.storages]
            start = next(given)
            c = scalars(*(next(given) for _ in scalars._fields))
            if phase == "measure":
                return phases.partial_sums(p, g, stored, c)
            if phase == "update":
                phases.update(p, g, stored, c, [*given] if measured else None, start)
            else:
                phases.stage(phase)(p, g, stored, c, start)
            return ()

        return run

    def examples(self, inputs: Inputs) -> list[Tensor]:
        """Tensors for these inputs, of sizes that stand for any."""
        sizes = _SIZES[self.form][: self.dims if self.form is Form.CHANNELS else None]
        shapes = [sizes, sizes]
        for storage in self.storages:
            shapes += [sizes, sizes[:1]][: len(storage.suffixes)]
        for place in self.numbers:
            shapes[2 + place] = ()
        numbers = [torch.float32 for _ in (*inputs.scalars, *inputs.sums)]
        shapes += [() for _ in (torch.int32, *numbers)]
        return [
            torch.zeros(shape, dtype=dtype, device="cpu")
            for shape, dtype in zip(shapes, [*self.dtypes, torch.int32, *numbers], strict=True)
        ]

    def _phases(self) -> Phases:
        return Phases(self.rule, self.names, self.storages, self.rounding)


@cache
def source_of(variant: Variant, phase: str) -> Source:
    """The kernel of a stage; all optimizers of a process share it.

    Raises Unsupported for a stage that no such kernel computes.
    """
    inputs = variant.inputs(phase)
    function, examples = variant.function(phase), variant.examples(inputs)
    graph = traced(function, examples, core_aten_decompositions()).graph
    return emit(f"{variant.rule.__name__.lower()}_{phase}", graph, inputs, variant.form)


#: Kernels by their text: all optimizers of a process share them.
_MADE: dict[str, Any] = {}


def made(source: Source) -> Any:
    """The kernel of a source, which Triton compiles when it is first launched."""
    if source.text not in _MADE:
        file = f"<kernel {len(_MADE)} of optbench_llm: {source.name}>"
        # Triton reads a kernel's source, and finds what has no file here.
        linecache.cache[file] = (len(source.text), None, source.text.splitlines(True), file)
        scope = {**_LIBRARY, "__name__": __name__}
        exec(compile(source.text, file, "exec"), scope)
        _MADE[source.text] = scope[source.name]
    return _MADE[source.text]
