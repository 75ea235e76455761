"""NAdam: Adam with Nesterov momentum (Dozat, ICLR workshop 2016), as torch has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class NAdam(Rule):
    r"""Adam with a momentum schedule and a look ahead; weight decay is coupled.

    .. math::
        \mu_t &= \beta_1\bigl(1 - \tfrac12 0.96^{t\psi}\bigr), \quad
            \Pi_t = \textstyle\prod_{i\le t} \mu_i \\
        \hat m_t &= \frac{\mu_{t+1} m_t}{1 - \Pi_{t+1}} + \frac{(1-\mu_t) g_t}{1-\Pi_t} \\
        \theta_t &= \theta_{t-1} - \eta\,\hat m_t / (\sqrt{v_t/(1-\beta_2^t)} + \epsilon)

    with Adam's moments of :math:`g_t + \lambda\theta_{t-1}` and :math:`\psi` = ``momentum_decay``.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
    }
    ranges = {"momentum_decay": NON_NEGATIVE}
    carry = {"mu_product": 1.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        mu, mu_next = (h.betas[0] * (1 - 0.5 * 0.96 ** (i * h.momentum_decay)) for i in (t, t + 1))
        mu_product = carry["mu_product"] * mu
        return {
            **bias_corrections(h, t),
            "l2": h.weight_decay,
            "mu_product": mu_product,
            "step_gradient": h.lr * (1 - mu) / (1 - mu_product),
            "step_momentum": h.lr * mu_next / (1 - mu_product * mu_next),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        step = (g * c.step_gradient + m * c.step_momentum) / (v.sqrt() * c.correction2 + c.eps)
        return p - step, {"exp_avg": m, "exp_avg_sq": v}
