"""MADGRAD: dual averaging with cube roots (Defazio & Jelassi 2021, arXiv:2101.11075)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.powers import cube_root
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class MADGRAD(Rule):
    r"""Momentumized, adaptive, dual averaged gradient; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \lambda_t &= (\eta + \epsilon)\sqrt t \\
        s_t &= s_{t-1} + \lambda_t g_t, \quad v_t = v_{t-1} + \lambda_t g_t^2 \\
        z_t &= \theta_0 - s_t / (\sqrt[3]{v_t} + \epsilon) \\
        \theta_t &= \mu\,\theta_{t-1} + (1-\mu)\,z_t

    with :math:`\mu` = ``momentum``. The :math:`\epsilon` beside the lr is the authors' code's (0
    where the lr is), the paper has none. An lr of 0 does not stop the parameter on its way to z.
    """

    slots = (
        # Errors of rounding would add up as the sums do: nothing is ever forgotten.
        Slot("grad_sum_sq", positive=True, delicate=True),
        Slot("grad_sum", delicate=True),
        Slot("x0", delicate=True, initial=lambda p, g, h: p),
    )
    defaults = {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "step_size": (h.lr + h.eps) * math.sqrt(t) if h.lr else 0.0,
            "weight": 1 - h.momentum,
            "eps": h.eps,
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        v = s.grad_sum_sq + g * g * c.step_size
        total = s.grad_sum + g * c.step_size
        root = cube_root(v) + c.eps
        # Without eps, 0 / 0 where no gradient has come yet.
        z = s.x0 - (total / root).where(root != 0, 0.0)
        return ema(p, z, c.weight), {"grad_sum_sq": v, "grad_sum": total}
