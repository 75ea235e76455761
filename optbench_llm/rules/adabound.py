"""AdaBound: Adam, its step sizes squeezed towards SGD's (Luo et al. 2019, arXiv:1902.09843)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import POSITIVE, Interval
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaBound(Rule):
    r"""Adam with the step size of each element clipped; weight decay is coupled.

    .. math::
        \hat\eta_t &= \operatorname{clip}\Bigl(
            \frac{\eta\sqrt{1-\beta_2^t}/(1-\beta_1^t)}{\sqrt{v_t} + \epsilon},\;
            \eta^*\bigl(1 - \tfrac{1}{\gamma t + 1}\bigr),\;
            \eta^*\bigl(1 + \tfrac{1}{\gamma t}\bigr)\Bigr) \\
        \theta_t &= \theta_{t-1} - \hat\eta_t\,m_t

    with Adam's moments of :math:`g_t + \lambda\theta_{t-1}`. As in the authors' code, the final
    rate :math:`\eta^*` follows the schedule: ``final_lr * lr / first lr``.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "final_lr": 0.1,
        "gamma": 1e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {"final_lr": POSITIVE, "gamma": Interval(0.0, 1.0, open_low=True, open_high=True)}
    carry = {"base_lr": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        base_lr = carry["base_lr"] or getattr(h, "initial_lr", h.lr)
        final_lr = h.final_lr * h.lr / base_lr if base_lr else 0.0
        corrections = bias_corrections(h, t)
        return {
            **corrections,
            "base_lr": base_lr,
            "l2": h.weight_decay,
            "step_size": h.lr * corrections["correction1"] / corrections["correction2"],
            "lower": final_lr * (1 - 1 / (h.gamma * t + 1)),
            "upper": final_lr * (1 + 1 / (h.gamma * t)),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        rate = (c.step_size / (v.sqrt() + c.eps)).clamp(c.lower, c.upper)
        return p - rate * m, {"exp_avg": m, "exp_avg_sq": v}
