"""MARS: AdamW on variance-reduced gradients (Yuan et al. 2024, arXiv:2411.10438)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import (
    Rule,
    Scope,
    Slot,
    Update,
    bias_corrections,
    decoupled_decay,
    ema,
)

if TYPE_CHECKING:
    from torch import Tensor


class Mars(Rule):
    r"""MARS-AdamW in its approximate form: one gradient a step, corrected by the one before.

    .. math::
        c_t &= g_t + \gamma\,\frac{\beta_1}{1-\beta_1}\,(g_t - g_{t-1}), \quad
            \tilde c_t = c_t / \max(1, \lVert c_t \rVert) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\,\tilde c_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2)\,\tilde c_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    The norm is each tensor's own. As in the authors' code :math:`g_0 = 0`, so that the first
    correction enlarges the first gradient. Every tensor is corrected (``optimize_1d=True`` of their
    code, which by default gives all but matrices to AdamW). The exact form, with a second gradient
    of each batch, is not offered.
    """

    scope = Scope.TENSOR
    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True), Slot("previous_grad"))
    defaults = {
        "lr": 3e-3,
        "betas": (0.95, 0.99),
        "gamma": 0.025,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {"gamma": NON_NEGATIVE}
    measures = ("corrected_sq",)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        beta1 = h.betas[0]
        return {
            **corrections,
            "difference": h.gamma * beta1 / (1 - beta1),
            "step_size": h.lr * corrections["correction1"],
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def corrected(g: Tensor, s: Any, c: Any) -> Tensor:
        """The gradient moved away from the previous one."""
        return g + (g - s.previous_grad) * c.difference

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        corrected = Mars.corrected(g, s, c)
        return ((corrected * corrected).sum(),)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        corrected = Mars.corrected(g, s, c) / sums.corrected_sq.sqrt().clamp(min=1.0)
        m = ema(s.exp_avg, corrected, c.weight1)
        v = ema(s.exp_avg_sq, corrected * corrected, c.weight2)
        step = m / (v.sqrt() * c.correction2 + c.eps) * c.step_size
        return p * c.decay - step, {"exp_avg": m, "exp_avg_sq": v, "previous_grad": g}
