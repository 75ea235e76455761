"""Products of the Hessian of a step's loss with a vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench_llm.programs.replay import Replay, base_model
from optbench_llm.programs.weights import first_short, moved_away, norm

#: Length of the step of a finite difference, over that of the weights.
RELATIVE_STEP = 1e-3
TWICE_DIFFERENTIABLE = ("eager", "sdpa")


def by_differences(replay: Replay, params: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
    """Central difference of the gradients at two points along the vector; two more passes.

    All is computed in the precision of the weights: differences of gradients of bf16 autocast would
    be noise. Gradients are what processes exchange anyway, so that DDP comes along.
    """
    step = RELATIVE_STEP * (_length(params) or 1.0) / _length(vector)
    sides = []
    with replay.without_autocast(), moved_away(params) as kept:
        for distance in (step, -step):
            with torch.no_grad():
                for p, start, direction in zip(params, kept, vector, strict=True):
                    torch.add(start, direction, alpha=distance, out=p.detach())
            replay.clear_gradients()
            replay.repeat()
            sides.append([torch.zeros_like(p) if p.grad is None else p.grad for p in params])
    return [(a - b).div_(2 * step) for a, b in zip(*sides, strict=True)]


def by_autograd(replay: Replay, params: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
    """The derivative of <gradient, vector>; counts as two more passes.

    Attention runs through its plain kernel, since the fused ones have no second derivative.
    """
    products = [torch.zeros_like(p) for p in params]
    with sdpa_kernel(SDPBackend.MATH):
        for loss in replay.losses():
            gradients = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
            pairs = [
                (g, v)
                for g, v in zip(gradients, vector, strict=True)
                if g is not None and g.requires_grad
            ]
            if not pairs:
                continue
            outputs, weights = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, params, weights, allow_unused=True)
            for product, part in zip(products, found, strict=True):
                if part is not None:
                    product += part
    replay.count_pass()
    return products


PRODUCTS: Mapping[str, Callable[[Replay, list[Tensor], list[Tensor]], list[Tensor]]] = {
    "finite-difference": by_differences,
    "autograd": by_autograd,
}


def check_product(trainer: Any, optimizer: Any, kind: str) -> None:
    """Raise ValueError for what this kind of product cannot do."""
    if kind == "finite-difference":
        short = first_short(optimizer)
        if short is not None:
            raise ValueError(
                f"optimizer {optimizer.spec!r}: hvp='finite-difference' cannot move weights in"
                f" {str(short.dtype).removeprefix('torch.')} by little enough; load the model in"
                " fp32 and train with bf16=True, or set hvp='autograd'"
            )
        return
    if trainer.args.world_size > 1:
        raise ValueError(
            f"optimizer {optimizer.spec!r}: hvp='autograd' runs in one process, since processes"
            " exchange gradients and no second derivatives; leave hvp at 'finite-difference'"
        )
    attention = getattr(getattr(base_model(trainer), "config", None), "_attn_implementation", None)
    if attention is not None and attention not in TWICE_DIFFERENTIABLE:
        raise ValueError(
            f"optimizer {optimizer.spec!r}: hvp='autograd' needs attention that can be"
            f" differentiated twice, and this model has attn_implementation={attention!r}; load it"
            " with 'sdpa', or leave hvp at 'finite-difference'"
        )


def _length(tensors: Sequence[Tensor]) -> float:
    return math.hypot(*(norm(t.detach()).item() for t in tensors))
