"""QHAdam: Adam with quasi-hyperbolic moments (Ma & Yarats 2019, arXiv:1810.06801)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import UNIT, Several
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class QHAdam(Rule):
    r"""Each of Adam's moments averaged with what it is a moment of; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \hat m_t &= m_t / (1-\beta_1^t), \quad \hat v_t = v_t / (1-\beta_2^t) \\
        \theta_t &= \theta_{t-1} - \eta\,
            \frac{(1-\nu_1)\,g_t + \nu_1\,\hat m_t}
            {\sqrt{(1-\nu_2)\,g_t^2 + \nu_2\,\hat v_t} + \epsilon}

    with Adam's moments. The defaults are those that the authors recommend; their code's own, both
    nus 1, are Adam.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 1e-3,
        "betas": (0.995, 0.999),
        "nus": (0.7, 1.0),
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {"nus": Several(UNIT, 2)}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        (beta1, beta2), (nu1, nu2) = h.betas, h.nus
        return {
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "moment1": nu1 / (1 - beta1**t),
            "moment2": nu2 / (1 - beta2**t),
            "direct1": 1 - nu1,
            "direct2": 1 - nu2,
            "lr": h.lr,
            "eps": h.eps,
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        rms = (v * c.moment2 + g * g * c.direct2).sqrt()
        step = (m * c.moment1 + g * c.direct1) / (rms + c.eps)
        return p - step * c.lr, {"exp_avg": m, "exp_avg_sq": v}
