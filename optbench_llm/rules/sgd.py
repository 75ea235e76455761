"""SGD with momentum, as torch has it (Sutskever et al. 2013)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, nesterov_without_momentum

if TYPE_CHECKING:
    from torch import Tensor


class SGD(Rule):
    r"""Stochastic gradient descent; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        b_1 &= g_1, \quad b_t = \mu b_{t-1} + (1-\tau) g_t \\
        \theta_t &= \theta_{t-1} - \eta\,b_t

    Nesterov takes :math:`g_t + \mu b_t` in place of :math:`b_t`. Without momentum there is no
    state. The dampening :math:`\tau` does not touch the first step.
    """

    slots = (Slot("momentum_buffer"),)
    defaults = {
        "lr": 0.1,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return cls.slots if h.momentum else ()

    @staticmethod
    def conflict(h: Any) -> str | None:
        return nesterov_without_momentum(h)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "l2": h.weight_decay,
            "momentum": h.momentum,
            "gradient": 1.0 if t == 1 else 1 - h.dampening,
            "direct": 1.0 if h.nesterov else 0.0,
            "buffered": h.momentum if h.nesterov else 1.0,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        if s.momentum_buffer is None:
            return p - g * c.lr, {}
        buffer = s.momentum_buffer * c.momentum + g * c.gradient
        return p - (g * c.direct + buffer * c.buffered) * c.lr, {"momentum_buffer": buffer}
