"""One huge element among the gradients: its square is beyond fp32, and the others are to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from oracles import CASES
from oracles.comparison import make_optimizer, make_parameter, set_gradients
from oracles.inputs import gradient
from oracles.proof import Shape

import optbench_llm as ob

HUGE = 1e25
ELEMENT = ob.list_optimizers(scope="element")
STOPPED_BY_THEIR_TENSOR = {
    "apollo": "its curvature is fitted along one direction for the whole tensor",
}


def check_others_go_on(
    name: str, shapes: Sequence[Shape], suffix: str = "", engine: str = "eager"
) -> None:
    """All stays finite, and what an element alone decides is what it is without the huge one.

    Where others share sums with it they go on as well. What shares a number with it, its channel
    or in 8 bits the scale of its block, may stand still until its moments have decayed.

    Raises:
        ValueError: the rule of ``name`` does not take the storage ``suffix``.
    """
    path, optimizer = _with_one_element(name, HUGE, shapes, suffix, engine)
    optimizer.check_finite()
    undisturbed, _ = _with_one_element(name, None, shapes, suffix, engine)
    for before, p, other in zip(path[1], path[-1], undisturbed[-1], strict=True):
        assert p.isfinite().all()
        flat, place = torch.arange(p.numel()).view_as(p), p.numel() // 2
        share = 256 if suffix == "@int8" else 1
        if optimizer.rule.by_channel and p.ndim > 1:
            share = max(share, p.shape[1])
        others = flat // share != place // share
        if name in ELEMENT:
            assert torch.equal(p[others], other[others])
        elif name not in STOPPED_BY_THEIR_TENSOR:
            assert (p != before)[others].all()


def _with_one_element(
    name: str, huge: float | None, shapes: Sequence[Shape], suffix: str, engine: str
) -> tuple[list[list[torch.Tensor]], Any]:
    """The parameters after each of 6 steps, the second with ``huge`` in each gradient's middle."""
    params = [make_parameter(shape, index, torch.float32) for index, shape in enumerate(shapes)]
    optimizer = make_optimizer(params, name + suffix, engine=engine, **CASES[name][0])
    path = []
    for t in range(1, 7):
        feeds = [optimizer.observe] if optimizer.rule.observe else []
        for feed in (*feeds, optimizer.step):
            set_gradients(params, shapes, t, gradient, pauses=False)
            for p in params:
                if t == 2 and huge is not None:
                    assert p.grad is not None
                    p.grad.view(-1)[p.numel() // 2] = huge
            optimizer.gradients_made()
            feed()
        path.append([p.detach().clone() for p in params])
    return path, optimizer
