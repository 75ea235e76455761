"""Products of the Hessian of a step's loss with a vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench_llm.programs.labels import base_model
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.weights import first_short, moved_away, norm, norm_of_all, put

#: Length of the step of a difference, over that of the weights: where the errors of the formula and
#: of rounding meet, on GPT-2 in miniature.
CENTRAL_STEP = 1e-3
FORWARD_STEP = 3e-4
TWICE_DIFFERENTIABLE = ("eager", "sdpa")


def by_differences(replay: Replay, params: list[Tensor], vector: list[Tensor]) -> list[Tensor]:
    """Central difference of the gradients at two points along the vector; two more passes.

    All is computed in the precision of the weights: differences of gradients of bf16 autocast would
    be noise. Gradients are what processes exchange anyway, so that DDP comes along.
    """
    step = _step(CENTRAL_STEP, params, vector)
    with moved_away(params) as start:
        ahead = _gradients_at(replay, params, start, vector, step)
        behind = _gradients_at(replay, params, start, vector, -step)
    return [a.sub_(b).div_((2 * step).to(a)) for a, b in zip(ahead, behind, strict=True)]


def by_forward_difference(
    replay: Replay, params: list[Tensor], vector: list[Tensor]
) -> list[Tensor]:
    """Difference of the gradients at one point along the vector and of the step; one more pass.

    Two under autocast, where the gradients of the step are too coarse.
    """
    step = _step(FORWARD_STEP, params, vector)
    with moved_away(params) as start:
        ahead = _gradients_at(replay, params, start, vector, step)
        if replay.under_autocast:
            here = _gradients_at(replay, params, start, vector, None)
        else:
            here = replay.gradients_of_step(params)
    return [a.sub_(b).div_(step.to(a)) for a, b in zip(ahead, here, strict=True)]


def _gradients_at(
    replay: Replay,
    params: list[Tensor],
    start: list[Tensor],
    vector: list[Tensor],
    distance: Tensor | None,
) -> list[Tensor]:
    """The gradients at a distance along the vector, in the precision of the weights."""
    put(params, start)
    if distance is not None:
        with torch.no_grad():
            for p, direction in zip(params, vector, strict=True):
                p.addcmul_(direction, distance.to(p))
    replay.clear_gradients()
    with replay.without_autocast():
        replay.repeat()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]


def _step(relative: float, params: Sequence[Tensor], vector: Sequence[Tensor]) -> Tensor:
    """How many times the vector to move; 0-dim, so that the host need not wait for it."""
    length = _length(params)
    return relative * length.where(length > 0, 1.0) / _length(vector)


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
    "forward-difference": by_forward_difference,
    "finite-difference": by_differences,
    "autograd": by_autograd,
}


def check_product(trainer: Any, optimizer: Any, kind: str) -> None:
    """Raise ValueError for what this kind of product cannot do."""
    if kind != "autograd":
        short = first_short(optimizer)
        if short is not None:
            raise ValueError(
                f"optimizer {optimizer.spec!r}: hvp={kind!r} cannot move weights in"
                f" {str(short.dtype).removeprefix('torch.')} by little enough; load the model in"
                " fp32 and train with bf16=True, or set hvp='autograd'"
            )
        return
    if trainer.args.world_size > 1:
        raise ValueError(
            f"optimizer {optimizer.spec!r}: hvp='autograd' runs in one process, since processes"
            " exchange gradients and no second derivatives; take hvp='finite-difference'"
        )
    attention = getattr(getattr(base_model(trainer), "config", None), "_attn_implementation", None)
    if attention is not None and attention not in TWICE_DIFFERENTIABLE:
        raise ValueError(
            f"optimizer {optimizer.spec!r}: hvp='autograd' needs attention that can be"
            f" differentiated twice, and this model has attn_implementation={attention!r}; load it"
            " with 'sdpa', or take hvp='finite-difference'"
        )


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return norm_of_all([norm(t.detach()) for t in tensors])
