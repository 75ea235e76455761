"""What inductor's vector code for CPUs lacks, added while it compiles.

A torch that lacks a name which is replaced here goes without, and its code is slower. Such code has
a place of its own in inductor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.fx import GraphModule

#: Code with bf16 is for vectors of this many bits, and takes a whole one at a time.
BF16_VECTOR_BITS = 256


@contextmanager
def better_vectors(graph: GraphModule, *, in_bf16: bool) -> Iterator[None]:
    """Let inductor make better vector code of a graph, where that differs from its own.

    - Bits of fp32 seen as integers, and back, stay in their register. It would take them through
      memory one by one, which is most of the time of a step with 8-bit state.
    - Loops with bf16 take whole vectors of it, two of fp32. It would take one of fp32 and move half
      a vector of bf16 through a buffer in memory, which makes AdamW with bf16 state twice as slow.
    """
    from unittest.mock import patch

    from torch._inductor.codegen import cpp
    from torch.compiler import config

    wanted: list[tuple[str, str, str, Callable[[Any], Any]]] = []
    if any(node.target is torch.ops.aten.view.dtype for node in graph.graph.nodes):
        wanted.append(("registers", "CppVecOverrides", "to_dtype_bitcast", _in_register))
    if in_bf16:
        wanted.append(("whole vectors of bf16", "TilingSelect", "select_tiling", _whole))
    with ExitStack() as patches:
        tag = config.cache_key_tag
        for what, owner, name, replacement in wanted:
            known = getattr(getattr(cpp, owner, None), name, None)
            if known is not None:
                new = replacement(known)
                patches.enter_context(patch.object(getattr(cpp, owner), name, new))
                tag += f"; optbench_llm: {what}"
        patches.enter_context(patch.object(config, "cache_key_tag", tag))
        yield


def _in_register(_: Any) -> Any:
    def to_dtype_bitcast(x: Any, dtype: torch.dtype, src_dtype: torch.dtype) -> str:
        from torch._inductor.virtualized import V

        kernel: Any = V.kernel
        return f"c10::bit_cast<{kernel._get_vec_type(dtype)}>({x})"

    return staticmethod(to_dtype_bitcast)


def _whole(select: Callable[..., Any]) -> Callable[..., Any]:
    def select_tiling(self: Any, *args: Any, **options: Any) -> Any:
        factors, *rest = select(self, *args, **options)
        return ([BF16_VECTOR_BITS // 16] * len(factors), *rest)

    return select_tiling
