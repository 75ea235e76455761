"""AdaMod: Adam with each rate bounded by its own average (Ding et al. 2019, arXiv:1910.12249)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FRACTION
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaMod(Rule):
    r"""No rate above the exponential average of its past; weight decay is decoupled.

    .. math::
        \eta_t &= \frac{\eta\sqrt{1-\beta_2^t}/(1-\beta_1^t)}{\sqrt{v_t} + \epsilon} \\
        s_t &= \beta_3 s_{t-1} + (1-\beta_3)\,\eta_t \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \min(\eta_t, s_t)\,m_t

    with Adam's moments. As in the authors' code the bias correction of :math:`m_t` is part of the
    rate that is averaged, and :math:`\epsilon` is added to the uncorrected root; in the paper the
    first stands outside and the second is added to the corrected root. :math:`s_0 = 0` makes the
    first :math:`1/(1-\beta_3)` steps a warm-up.
    """

    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_sq", positive=True),
        Slot("exp_avg_lr", positive=True),
    )
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "beta3": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {"beta3": FRACTION}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        return {
            **corrections,
            "step_size": h.lr * corrections["correction1"] / corrections["correction2"],
            "weight3": 1 - h.beta3,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        rate = c.step_size / (v.sqrt() + c.eps)
        bound = ema(s.exp_avg_lr, rate, c.weight3)
        new = {"exp_avg": m, "exp_avg_sq": v, "exp_avg_lr": bound}
        return p * c.decay - rate.minimum(bound) * m, new
