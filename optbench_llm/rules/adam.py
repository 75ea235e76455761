"""Adam, with L2 or decoupled weight decay (arXiv:1412.6980 and arXiv:1711.05101)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Adam(Rule):
    r"""Adam (Kingma & Ba 2015); weight decay is coupled, an L2 term of the gradient.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        step_size = h.lr * corrections["correction1"]
        return {**corrections, "step_size": step_size, "l2": h.weight_decay, "decay": 1.0}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        step = m / (v.sqrt() * c.correction2 + c.eps) * c.step_size
        return p * c.decay - step, {"exp_avg": m, "exp_avg_sq": v}


class AdamW(Adam):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}
    """

    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {**Adam.scalars(h, t, carry), "l2": 0.0, "decay": decoupled_decay(h)}
