"""AdaMax: Adam with the infinity norm (Kingma & Ba 2015, arXiv:1412.6980, sec. 7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaMax(Rule):
    r"""The first moment over a decaying maximum; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        u_t &= \max(\beta_2 u_{t-1}, |g_t| + \epsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{1-\beta_1^t}\,m_t / u_t

    The :math:`\epsilon` in the maximum is torch's; the paper has none.
    """

    slots = (Slot("exp_avg"), Slot("exp_inf", positive=True))
    defaults = {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        return {
            "step_size": h.lr / (1 - beta1**t),
            "l2": h.weight_decay,
            "weight1": 1 - beta1,
            "beta2": beta2,
            "eps": h.eps,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        u = (s.exp_inf * c.beta2).maximum(g.abs() + c.eps)
        return p - m / u * c.step_size, {"exp_avg": m, "exp_inf": u}
