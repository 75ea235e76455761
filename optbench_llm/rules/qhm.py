"""QHM: quasi-hyperbolic momentum (Ma & Yarats 2019, arXiv:1810.06801)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import UNIT
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class QHM(Rule):
    r"""A weighted mean of the plain gradient and dampened momentum; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        m_t &= \beta m_{t-1} + (1-\beta) g_t \\
        \theta_t &= \theta_{t-1} - \eta\,\bigl[(1-\nu)\,g_t + \nu\,m_t\bigr]

    with :math:`\beta` = ``momentum``. Dampened momentum takes an lr that is :math:`1/(1-\beta)`
    times that of SGD's momentum.
    """

    slots = (Slot("momentum_buffer"),)
    defaults = {"lr": 1.0, "momentum": 0.999, "nu": 0.7, "weight_decay": 0.0}
    ranges = {"nu": UNIT}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {"lr": h.lr, "weight": 1 - h.momentum, "nu": h.nu, "l2": h.weight_decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.momentum_buffer, g, c.weight)
        return p - ema(g, m, c.nu) * c.lr, {"momentum_buffer": m}
