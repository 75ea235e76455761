"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema, sign

if TYPE_CHECKING:
    from torch import Tensor


class Lion(Rule):
    r"""Sign of an interpolated momentum, one state tensor.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t) \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1} - \eta\,u_t

    Usual lr is 3-10 times smaller than AdamW's and weight decay 3-10 times larger (paper, sec. 5).
    """

    slots = (Slot("exp_avg"),)
    defaults = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        return {
            "lr": h.lr,
            "decay": decoupled_decay(h),
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        step = sign(ema(s.exp_avg, g, c.weight1)) * c.lr
        return p * c.decay - step, {"exp_avg": ema(s.exp_avg, g, c.weight2)}
