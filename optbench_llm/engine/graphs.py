"""From a function of tensors to machine code: traced on fake tensors, compiled by inductor.

Dynamo stays out of it: what the engine runs are pure functions of tensors, so there are no guards
to check, a call costs some 4 us instead of 17 us, and compiling takes half the time. Inductor takes
longer to import than torch itself, so whoever compiles nothing does not load it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optbench_llm.engine.replaced import replaced
from optbench_llm.engine.tracing import traced
from optbench_llm.engine.vectors import BF16_VECTOR_BITS, IN_8_BITS, better_vectors

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx import GraphModule

#: Up to this many elements code is for one thread, and sums need no splitting; inductor draws the
#: same line.
SHORT_ELEMENTS = 4096
#: Elements that stand for all lengths of a class while tracing.
TYPICAL_ELEMENTS = {"short": 2048, "long": 2**20}
#: In the shape of a layout: as many as the units of a stack, and as the elements of each of them.
COUNT, LENGTH = -1, -2
#: More than any size of a dimension.
ANY = 2**48
#: What stands for these while tracing.
TYPICAL_SIZES = {COUNT: 24, LENGTH: 768}
#: How the dynamic loader begins what it has against a library.
_LIBRARY = re.compile(r"(/[^:]+\.so): ")
#: Compiled code: from a list of tensors to a sequence of them.
Compiled = Callable[[list[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Layout:
    """What compiled code knows of a tensor.

    ``elements`` names the class of a flat unit, ``short`` or ``long``, where the first dimension
    may be any, from 2, that the class has, the same in all such tensors; a step along it is
    ``width`` elements of the unit. ``stack`` are short units of one length, any number of them from
    2: ``COUNT`` and ``LENGTH`` in the shape.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    elements: str | None = None
    width: int = 1

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor, fixed in all dimensions."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def of_any_length(self, elements: str, width: int) -> Layout:
        """The same for every length of a class."""
        shape = (COUNT, *self.shape[1:])
        return replace(self, shape=shape, elements=elements, width=width)

    def of_any_stack(self, *shape: int) -> Layout:
        """The same, contiguous, for stacks of any size."""
        return replace(self, shape=shape, stride=(), elements="stack")

    def ranges(self) -> list[tuple[int, int]]:
        """The least and the largest that each dimension may be."""
        if self.elements == "stack":
            any_size = {COUNT: (2, ANY), LENGTH: (2, SHORT_ELEMENTS)}
            return [any_size.get(size, (size, size)) for size in self.shape]
        short = SHORT_ELEMENTS // self.width
        first = {"short": (2, short), "long": (short + 1, ANY)}
        fixed = [(size, size) for size in self.shape]
        return fixed if self.elements is None else [first[self.elements], *fixed[1:]]


def compile_graph(function: Callable[..., Sequence[Tensor]], layouts: Sequence[Layout]) -> Compiled:
    """Machine code of ``function`` for inputs of these layouts, which it may write to.

    It takes them in a list, which it empties. They must not overlap in memory.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes
    from torch._inductor.pattern_matcher import stable_topological_sort
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    examples: list[Any] = [_example(layout, mode) for layout in layouts]
    with torch.no_grad(), enable_python_dispatcher():
        graph = _traced(function, examples)
    with (
        tracing(TracingContext(mode)),
        config.patch(_options(layouts)),
        better_vectors(graph, in_bf16=_in_bf16(layouts), in_8_bits=_in_8_bits(layouts)),
    ):
        graph = joint_graph_passes(graph, layouts[0].device)
        # They may put what takes a size before the node that is that size.
        stable_topological_sort(graph.graph)
        compiled: Any = compile_fx_inner(graph, examples, is_inference=True)
    # Nothing checks guards when the code is called, so they must hold for all sizes.
    ranges = {
        size.node.expr: own
        for layout, example in zip(layouts, examples, strict=True)
        for size, own in zip(example.shape, layout.ranges(), strict=True)
        if isinstance(size, torch.SymInt)
    }
    for guard in shapes.guards:
        symbols = [*guard.expr.free_symbols]
        for sizes in product(*(ranges[symbol] for symbol in symbols)):
            assert guard.expr.subs(dict(zip(symbols, sizes, strict=True))), guard.expr
    # Its own call keeps the books of autotuning, which takes longer than a short unit.
    return getattr(compiled, "current_callable", None) or compiled


@contextmanager
def compiled_together() -> Iterator[None]:
    """Let the C++ compiler work on one graph while the next is traced.

    What :func:`compile_graph` returned within may be called after the end, which waits for all.
    """
    from torch._inductor.async_compile import AsyncCompile

    begun: list[tuple[AsyncCompile, dict[str, Any]]] = []

    def wait(self: AsyncCompile, scope: dict[str, Any]) -> None:
        begun.append((self, scope))

    try:
        with replaced(AsyncCompile, "wait", wait):
            yield
    finally:
        for compiling, scope in begun:
            _load(partial(compiling.wait, scope))


def _load(load: Callable[[], None]) -> None:
    """Load compiled code; an empty one, which a killed process leaves in the cache, is made anew.

    The linker writes a library in its place, and inductor takes one that is there for whole: else
    one kill would fail every later run of the same optimizer on this machine.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    removed: set[Path] = set()
    while True:
        try:
            return load()
        except (ImportError, OSError) as error:
            named = _LIBRARY.match(str(error))
            library = Path(named[1]) if named else None
            if library is None or library in removed or not library.is_relative_to(cache_dir()):
                raise
            library.unlink(missing_ok=True)
            removed.add(library)


def _traced(function: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor]) -> GraphModule:
    """The graph of a function as inductor takes it.

    torch.compile's way here, through the autograd that a step has no use for, traces three times.
    """
    from torch._inductor.decomposition import select_decomp_table

    graph = traced(function, examples, select_decomp_table())
    output = graph.graph.output_node()
    output.meta["user_visible_output_idxs"] = [*range(len(output.args[0]))]  # pyright: ignore
    return graph


def _options(layouts: Sequence[Layout]) -> dict[str, Any]:
    """How inductor is to compile.

    Without its look at each input, a tenth of a short unit's call: whoever calls knows the layouts.
    Without its trials of the processor's vector instructions, each a compilation and a process that
    loads torch: whoever compiles sees whether it works. For bf16 with shorter vectors: it stores
    half of a 512-bit one under a mask, which takes twice as long.
    """
    from torch._inductor import config

    options: dict[str, Any] = {"size_asserts": False}
    if config.cpp.vec_isa_ok is None:
        options["cpp.vec_isa_ok"] = True
    if _in_bf16(layouts):
        options["cpp.simdlen"] = BF16_VECTOR_BITS
    return options


def _in_bf16(layouts: Sequence[Layout]) -> bool:
    dtypes = {layout.dtype for layout in layouts}
    return torch.bfloat16 in dtypes and not _in_8_bits(layouts)


def _in_8_bits(layouts: Sequence[Layout]) -> bool:
    return any(layout.dtype in IN_8_BITS for layout in layouts)


def _example(layout: Layout, mode: FakeTensorMode) -> Tensor:
    if layout.elements is None:
        with mode:
            return torch.empty_strided(
                layout.shape, layout.stride, dtype=layout.dtype, device=layout.device
            )
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    # Dimensions of one size share a symbol.
    if layout.elements == "stack":
        shape = [TYPICAL_SIZES.get(size, size) for size in layout.shape]
        sizes = [DimDynamic.DUCK if size < 0 else DimDynamic.STATIC for size in layout.shape]
    else:
        row = layout.shape[1:]
        shape = [TYPICAL_ELEMENTS[layout.elements] // layout.width, *row]
        sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * len(row)
    real = torch.empty(shape, dtype=layout.dtype, device=layout.device)
    return mode.from_tensor(real, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
