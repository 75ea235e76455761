"""Adan: adaptive Nesterov momentum (Xie et al. 2022, arXiv:2208.06677)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, FRACTION, Several
from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Adan(Rule):
    r"""Nesterov momentum from the gradient's difference; three moments and the last gradient.

    .. math::
        d_t &= g_t - g_{t-1}, \quad d_1 = 0 \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) d_t \\
        n_t &= \beta_3 n_{t-1} + (1-\beta_3) (g_t + \beta_2 d_t)^2 \\
        u_t &= \Bigl(\frac{m_t}{1-\beta_1^t} + \frac{\beta_2 v_t}{1-\beta_2^t}\Bigr) \Big/
            \Bigl(\sqrt{\frac{n_t}{1-\beta_3^t}} + \epsilon\Bigr) \\
        \theta_t &= (\theta_{t-1} - \eta\,u_t) / (1 + \eta\lambda)

    The betas are those of the authors' code (their paper writes one minus them). ``no_prox`` decays
    as AdamW does, before the step, in place of the division after it.
    """

    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_diff"),
        Slot("exp_avg_sq", positive=True),
        Slot("previous_grad", initial=lambda p, g, h: g),
    )
    defaults = {
        "lr": 1e-3,
        "betas": (0.98, 0.92, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "no_prox": False,
    }
    ranges = {"betas": Several(FRACTION, 3), "no_prox": FLAG}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2, beta3 = h.betas
        return {
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "weight3": 1 - beta3,
            "beta2": beta2,
            "step_size": h.lr / (1 - beta1**t),
            "step_size_diff": h.lr * beta2 / (1 - beta2**t),
            "correction3": (1 - beta3**t) ** -0.5,
            "eps": h.eps,
            "decay_before": decoupled_decay(h) if h.no_prox else 1.0,
            "decay_after": 1.0 if h.no_prox else 1 / (1 + h.lr * h.weight_decay),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        diff = g - s.previous_grad
        ahead = g + diff * c.beta2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_diff, diff, c.weight2)
        n = ema(s.exp_avg_sq, ahead * ahead, c.weight3)
        step = (m * c.step_size + v * c.step_size_diff) / (n.sqrt() * c.correction3 + c.eps)
        new = {"exp_avg": m, "exp_avg_diff": v, "exp_avg_sq": n, "previous_grad": g}
        return (p * c.decay_before - step) * c.decay_after, new
