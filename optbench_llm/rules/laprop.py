"""LaProp: momentum of normalised gradients (Ziyin et al. 2020, arXiv:2002.04839)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class LaProp(Rule):
    r"""Adam with the order turned round: first the division, then the momentum.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\,\eta_t\,
            \frac{g_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} \\
        w_t &= \beta_1 w_{t-1} + (1-\beta_1)\,\eta_t \\
        \theta_t &= (1-\eta_t\lambda)\,(\theta_{t-1} - \eta_t\,m_t / w_t)

    The lr inside the momentum is the authors' code's: steps taken at a larger lr weigh more. While
    the lr is constant this is the paper's algorithm, where :math:`m_t / w_t` is
    :math:`m_t / (1-\beta_1^t)` without it. At an lr of 0 their code moves on by :math:`m_t`, here
    nothing moves. They keep lr and weight decay apart and ask to schedule both alike: that is the
    product :math:`\eta_t\lambda`.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0}
    carry = {"lr_average": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        lr_average = beta1 * carry["lr_average"] + (1 - beta1) * h.lr
        return {
            "lr_average": lr_average,
            "lr": h.lr,
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "correction2": (1 - beta2**t) ** -0.5,
            "eps": h.eps,
            "step_size": h.lr / lr_average if lr_average else 0.0,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        m = ema(s.exp_avg, g / (v.sqrt() * c.correction2 + c.eps) * c.lr, c.weight1)
        return (p - m * c.step_size) * c.decay, {"exp_avg": m, "exp_avg_sq": v}
