"""RAdam: Adam with its early variance rectified (Liu et al. 2020, arXiv:1908.03265)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


def rectification(beta2: float, t: int, threshold: float = 5) -> float | None:
    r"""The rectification :math:`r_t` (paper, eq. 5), None while the variance is intractable.

    The paper asks for a :math:`\rho_t` above 4, the authors' code and torch for 5.
    """
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= threshold:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


class RAdam(Rule):
    r"""Adam scaled by a rectification, plain momentum before it is defined; coupled weight decay.

    .. math::
        \theta_t = \theta_{t-1} - \frac{\eta}{1-\beta_1^t} \cdot
            \begin{cases} r_t\,m_t \sqrt{1-\beta_2^t} / (\sqrt{v_t} + \epsilon)
            & \rho_t > 5 \\ m_t & \text{else} \end{cases}

    with Adam's moments of :math:`g_t + \lambda\theta_{t-1}`. The paper has no weight decay; torch
    couples it, as here, the authors' code decouples it.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        step_size = h.lr * corrections["correction1"]
        rectified = rectification(h.betas[1], t)
        return {
            **corrections,
            "l2": h.weight_decay,
            "adaptive": step_size * (rectified or 0.0) / corrections["correction2"],
            "plain": step_size if rectified is None else 0.0,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        rate = c.adaptive / (v.sqrt() + c.eps) + c.plain
        return p - rate * m, {"exp_avg": m, "exp_avg_sq": v}
