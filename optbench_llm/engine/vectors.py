"""What inductor's vector code for CPUs lacks, added while it compiles.

A torch that lacks a name which is replaced here goes without, and its code is slower. Such code has
a place of its own in inductor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from optbench_llm.engine.replaced import replaced

if TYPE_CHECKING:
    from torch.fx import GraphModule

#: Code with bf16 is for vectors of this many bits, and takes a whole one at a time.
BF16_VECTOR_BITS = 256
#: What codes of 8-bit state are.
IN_8_BITS = frozenset({torch.int8, torch.uint8})
#: Numbers of fp32 in a vector of AVX2.
LANES = 8


@contextmanager
def better_vectors(graph: GraphModule, *, in_bf16: bool, in_8_bits: bool) -> Iterator[None]:
    """Let inductor make better vector code of a graph, where that differs from its own.

    - Bits of fp32 seen as integers, and back, stay in their register. It would take them through
      memory one by one, which is most of the time of a step with 8-bit state.
    - Loops with bf16 take whole vectors of it, two of fp32. It would take one of fp32 and move half
      a vector of bf16 through a buffer in memory, which makes AdamW with bf16 state twice as slow.
    - Under AVX2 eight 8-bit codes go straight from memory into a register, and from 32 bits to 8 by
      way of fp32, which is exact. It would take them through buffers on the stack, and a processor
      waits for what it wrote there in small pieces: five times as long for Lion with 8-bit state.

    Code for one instruction set is no code for another: it runs over the ends of its tensors.
    Inductor's cache knows the set by its own settings alone, not by ``ATEN_CPU_CAPABILITY``.
    """
    from torch._inductor.codegen import cpp
    from torch._inductor.cpu_vec_isa import VecAVX2, pick_vec_isa
    from torch.compiler import config

    wanted: list[tuple[str, str, str, Callable[[Any], Any]]] = []
    if any(node.target is torch.ops.aten.view.dtype for node in graph.graph.nodes):
        wanted.append(("registers", "CppVecOverrides", "to_dtype_bitcast", _in_register))
    if in_bf16:
        wanted.append(("whole vectors of bf16", "TilingSelect", "select_tiling", _whole))
    isa = pick_vec_isa()
    if in_8_bits and type(isa) is VecAVX2:
        wanted.append(("eight codes", "CppVecKernel", "_get_vec_load_line", _straight_load))
        wanted.append(("codes by fp32", "CppVecKernel", "get_to_dtype_expr", _narrowed_by_fp32))
    with ExitStack() as patches:
        tag = f"{config.cache_key_tag}; {isa}"
        for what, owner, name, replacement in wanted:
            known = getattr(getattr(cpp, owner, None), name, None)
            if known is not None:
                new = replacement(known)
                patches.enter_context(replaced(getattr(cpp, owner), name, new))
                tag += f"; optbench_llm: {what}"
        patches.enter_context(config.patch(cache_key_tag=tag))  # pyright: ignore
        yield


def _in_register(_: Any) -> Any:
    def to_dtype_bitcast(x: Any, dtype: torch.dtype, src_dtype: torch.dtype) -> str:
        from torch._inductor.virtualized import V

        kernel: Any = V.kernel
        # What std::bit_cast is, which c10::bit_cast is not before torch compiles as C++20.
        return f"__builtin_bit_cast({kernel._get_vec_type(dtype)}, {x})"

    return staticmethod(to_dtype_bitcast)


def _whole(select: Callable[..., Any]) -> Callable[..., Any]:
    def select_tiling(self: Any, *args: Any, **options: Any) -> Any:
        factors, *rest = select(self, *args, **options)
        return ([BF16_VECTOR_BITS // 16] * len(factors), *rest)

    return select_tiling


def _straight_load(load_line: Callable[..., str]) -> Callable[..., str]:
    def _get_vec_load_line(
        self: Any, var: str, index: Any, dtype: torch.dtype, load_mask: Any = None
    ) -> str:
        line = load_line(self, var, index, dtype, load_mask)
        if dtype not in IN_8_BITS or load_mask or self.num_elems != LANES:
            return line
        return line.replace("::loadu(", "::loadu_one_fourth(").rpartition(", ")[0] + ")"

    return _get_vec_load_line


def _narrowed_by_fp32(convert: Callable[..., str]) -> Callable[..., str]:
    def get_to_dtype_expr(
        self: Any, src: Any, dtype: torch.dtype, src_dtype: torch.dtype, rounding: bool = False
    ) -> str:
        expression = convert(self, src, dtype, src_dtype, rounding)
        if not src.is_vec or src_dtype != torch.int32 or dtype not in IN_8_BITS:
            return expression
        return expression.replace(f"({src})", f"(at::vec::convert<float>({src}))")

    return get_to_dtype_expr
