"""A stage of a rule as a graph of aten operations, whatever then makes code of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.fx import GraphModule


def traced(
    function: Callable[..., Sequence[Tensor]],
    examples: Sequence[Tensor],
    decompositions: Mapping[Any, Any],
) -> GraphModule:
    """The graph of a function whose inputs are written to at its end.

    Sizes are symbols, the same one for dimensions of the same size; the function's own code may
    tie them to numbers.
    """
    from torch.fx import GraphModule
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = torch.func.functionalize(function, remove="mutations")
    made = make_fx(pure, dict(decompositions), tracing_mode="symbolic")(*examples)
    # Inductor's cache cannot pickle the shape environment that the graph brings along.
    graph = GraphModule(made, made.graph)
    graph.graph.eliminate_dead_code()
    return graph
