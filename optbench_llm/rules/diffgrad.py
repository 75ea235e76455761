"""DiffGrad: Adam slowed where the gradient hardly changes (Dubey et al. 2019, arXiv:1909.11015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class DiffGrad(Rule):
    r"""Adam's step times a friction between 1/2 and 1; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \xi_t &= 1 / \bigl(1 + e^{-|g_t - g_{t-1}|}\bigr), \quad g_0 = 0 \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,
            \frac{\xi_t\,m_t}{\sqrt{v_t} + \epsilon}

    with Adam's moments. The authors' first code compared the gradient with itself, which made the
    friction 1/2 from the second step on; this is the paper's rule and that of their corrected
    ``diffGrad_v2.py``, which places :math:`\epsilon` as above.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True), Slot("previous_grad"))
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        step_size = h.lr * corrections["correction1"] / corrections["correction2"]
        return {**corrections, "step_size": step_size, "l2": h.weight_decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        friction = (g - s.previous_grad).abs().sigmoid()
        step = m * friction / (v.sqrt() + c.eps) * c.step_size
        return p - step, {"exp_avg": m, "exp_avg_sq": v, "previous_grad": g}
