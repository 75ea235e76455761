"""From a function of tensors to machine code: traced on fake tensors, compiled by inductor.

Dynamo stays out of it: what the engine runs are pure functions of tensors, so there are no guards
to check, a call costs some 4 us instead of 17 us, and compiling takes half the time. Inductor takes
longer to import than torch itself, so whoever compiles nothing does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

#: Up to this many elements code is for one thread, and sums need no splitting; inductor draws the
#: same line.
SHORT_ELEMENTS = 4096
#: Elements that stand for all lengths of a class while tracing.
TYPICAL_ELEMENTS = {"short": 2048, "long": 2**20}
#: Code with bf16 is for vectors of this many bits, and takes a whole one at a time.
BF16_VECTOR_BITS = 256
#: Compiled code: from a list of tensors to a sequence of them.
Compiled = Callable[[list[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Layout:
    """What compiled code knows of a tensor.

    ``elements`` names the class of a flat unit, ``short`` or ``long``, where the first dimension
    may be any, from 2, that the class has; ``shape`` then begins with the number of the unit, and a
    step along this dimension is ``width`` elements of the unit.
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

    def of_any_length(self, elements: str, width: int, unit: int) -> Layout:
        """The same for every length of a class; tensors of one unit have the same length."""
        shape = (unit, *self.shape[1:])
        return replace(self, shape=shape, elements=elements, width=width)

    def lengths(self) -> tuple[int, int]:
        """The least and the largest first dimension of the class."""
        short = SHORT_ELEMENTS // self.width
        return (2, short) if self.elements == "short" else (short + 1, 2**48)


def compile_graph(function: Callable[..., Sequence[Tensor]], layouts: Sequence[Layout]) -> Compiled:
    """Machine code of ``function`` for inputs of these layouts, which it may write to.

    It takes them in a list, which it empties. They must not overlap in memory.
    """
    from torch._functorch import config as functorch_config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    examples: list[Any] = [_example(layout, mode) for layout in layouts]
    graph = make_fx(function, tracing_mode="symbolic")(*examples)
    found: list[Any] = []

    def inner_compile(*args: Any, **options: Any) -> Any:
        found.append(compile_fx_inner(*args, **options))
        return found[-1]

    # Autograd's own cache cannot pickle such graphs and warns of it; inductor's works without.
    with functorch_config.patch(enable_autograd_cache=False), _whole_vectors(layouts):
        compile_fx(graph, examples, inner_compile=inner_compile, config_patches=_options(layouts))
    (compiled,) = found
    # Nothing checks guards when the code is called, so they must hold for all lengths.
    for guard in shapes.guards:
        for n in layouts[0].lengths():
            assert guard.expr.subs(dict.fromkeys(guard.expr.free_symbols, n)), guard.expr
    # Its own call keeps the books of autotuning, which takes longer than a short unit.
    return getattr(compiled, "current_callable", None) or compiled


def _options(layouts: Sequence[Layout]) -> dict[str, Any]:
    """How inductor is to compile.

    Without its look at each input, a tenth of a short unit's call: whoever calls knows the layouts.
    For bf16 with shorter vectors: it stores half of a 512-bit one under a mask, which takes twice
    as long.
    """
    vectors = {"cpp.simdlen": BF16_VECTOR_BITS} if _in_bf16(layouts) else {}
    return {"size_asserts": False, **vectors}


@contextmanager
def _whole_vectors(layouts: Sequence[Layout]) -> Iterator[None]:
    """Let inductor's loops take whole vectors of bf16 at a time, two of fp32.

    It would take one of fp32 and move half a vector of bf16 through a buffer in memory, which
    makes AdamW with bf16 state twice as slow. A torch that lacks the name replaced here does so;
    such code has another place in inductor's cache.
    """
    if not _in_bf16(layouts):
        yield
        return
    from unittest.mock import patch

    from torch._inductor.codegen import cpp
    from torch.compiler import config

    select = getattr(getattr(cpp, "TilingSelect", None), "select_tiling", None)
    if select is None:
        yield
        return

    def select_whole(self: Any, *args: Any, **options: Any) -> Any:
        factors, *rest = select(self, *args, **options)
        return ([BF16_VECTOR_BITS // 16] * len(factors), *rest)

    tag = f"{config.cache_key_tag}; optbench_llm: whole vectors of bf16"
    with (
        patch.object(config, "cache_key_tag", tag),
        patch.object(cpp.TilingSelect, "select_tiling", select_whole),
    ):
        yield


def _in_bf16(layouts: Sequence[Layout]) -> bool:
    dtypes = {layout.dtype for layout in layouts}
    return torch.bfloat16 in dtypes and not dtypes & {torch.int8, torch.uint8}


def _example(layout: Layout, mode: FakeTensorMode) -> Tensor:
    if layout.elements is None:
        with mode:
            return torch.empty_strided(
                layout.shape, layout.stride, dtype=layout.dtype, device=layout.device
            )
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    unit, *row = layout.shape
    # Dimensions of one size share a symbol: each unit has a size of its own.
    length = TYPICAL_ELEMENTS[layout.elements] // layout.width + unit
    real = torch.empty(length, *row, dtype=layout.dtype, device=layout.device)
    sizes = [DimDynamic.DUCK] + [DimDynamic.STATIC] * len(row)
    return mode.from_tensor(real, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
