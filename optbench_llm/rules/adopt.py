"""ADOPT: Adam with an earlier second moment (Taniguchi et al. 2024, arXiv:2411.02853)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG
from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Adopt(Rule):
    r"""Each gradient is divided by the second moment of those before it, then averaged.

    .. math::
        u_t &= \operatorname{clip}\bigl(g_t / \max(\sqrt{v_{t-1}}, \epsilon),\
            \pm (t-1)^{1/4}\bigr) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) u_t \\
        \theta_t &= \theta_{t-1} - \eta\,m_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad v_1 = g_1^2

    The first step moves nothing, it makes :math:`v_1` alone. Weight decay is coupled, an L2 term of
    the gradient; ``decouple`` multiplies the parameter by :math:`1-\eta\lambda` instead, as AdamW
    does. The clip is the default of the authors' code since November 2024.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.9999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "decouple": False,
    }
    ranges = {"decouple": FLAG}

    @staticmethod
    def stages(h: Any, t: int) -> tuple[str, ...]:
        return ("initialise",) if t == 1 else ("update",)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "weight1": 1 - h.betas[0],
            "weight2": 1 - h.betas[1],
            "eps": h.eps,
            "clip": (t - 1) ** 0.25,
            "l2": 0.0 if h.decouple else h.weight_decay,
            "decay": decoupled_decay(h) if h.decouple else 1.0,
        }

    @staticmethod
    def initialise(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """The first second moment."""
        g = g + p * c.l2
        return {"exp_avg_sq": g * g}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        u = (g / s.exp_avg_sq.sqrt().clamp(min=c.eps)).clamp(min=-c.clip, max=c.clip)
        m = ema(s.exp_avg, u, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        return p * c.decay - m * c.lr, {"exp_avg": m, "exp_avg_sq": v}
