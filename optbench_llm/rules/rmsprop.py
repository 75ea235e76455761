"""RMSprop, as torch has it (Hinton, Neural Networks for Machine Learning, lecture 6.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class RMSprop(Rule):
    r"""The gradient over its running root mean square; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        v_t &= \alpha v_{t-1} + (1-\alpha) g_t^2 \\
        b_t &= \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon) \\
        \theta_t &= \theta_{t-1} - \eta\,b_t

    Centered subtracts the square of the gradient's running mean from :math:`v_t` under the root.
    """

    # Centred, a rounded mean could exceed the mean square, and the variance turn negative.
    slots = (
        Slot("square_avg", positive=True),
        Slot("grad_avg", delicate=True),
        Slot("momentum_buffer"),
    )
    defaults = {
        "lr": 1e-3,
        "alpha": 0.99,
        "eps": 1e-8,
        "momentum": 0.0,
        "centered": False,
        "weight_decay": 0.0,
    }

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        used = {"square_avg": True, "grad_avg": h.centered, "momentum_buffer": h.momentum > 0}
        slots = (
            replace(slot, delicate=slot.delicate or (h.centered and slot.positive))
            for slot in cls.slots
        )
        return tuple(slot for slot in slots if used[slot.name])

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "l2": h.weight_decay,
            "weight": 1 - h.alpha,
            "eps": h.eps,
            "momentum": h.momentum,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        new = {"square_avg": ema(s.square_avg, g * g, c.weight)}
        variance = new["square_avg"]
        if s.grad_avg is not None:
            new["grad_avg"] = ema(s.grad_avg, g, c.weight)
            variance = variance - new["grad_avg"] * new["grad_avg"]
        step = g / (variance.sqrt() + c.eps)
        if s.momentum_buffer is not None:
            step = new["momentum_buffer"] = s.momentum_buffer * c.momentum + step
        return p - step * c.lr, new
