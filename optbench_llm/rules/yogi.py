"""Yogi: a second moment that grows in bounded steps (Zaheer et al., NeurIPS 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class Yogi(Rule):
    r"""Adam whose second moment moves by :math:`\pm(1-\beta_2) g^2`; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= v_{t-1} - (1-\beta_2) \operatorname{sign}(v_{t-1} - g_t^2)\,g_t^2 \\
        \theta_t &= \theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    The bias corrections are those of the implementations in use (optax); the paper has none.
    :math:`v_0` = ``initial_accumulator_value``; :math:`m_0 = 0`, where optax starts it at the same
    value and so moves parameters that have no gradient.
    """

    slots = (
        Slot("exp_avg"),
        Slot(
            "exp_avg_sq",
            positive=True,
            initial=lambda p, g, h: p.new_full(p.shape, h.initial_accumulator_value),
        ),
    )
    defaults = {
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-3,
        "initial_accumulator_value": 1e-6,
        "weight_decay": 0.0,
    }
    ranges = {"initial_accumulator_value": NON_NEGATIVE}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        step_size = h.lr * corrections["correction1"]
        return {**corrections, "step_size": step_size, "l2": h.weight_decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        square = g * g
        m = ema(s.exp_avg, g, c.weight1)
        v = s.exp_avg_sq - (s.exp_avg_sq - square).sign() * square * c.weight2
        step = m / (v.sqrt() * c.correction2 + c.eps) * c.step_size
        return p - step, {"exp_avg": m, "exp_avg_sq": v}
