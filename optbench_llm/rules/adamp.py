"""AdamP: Adam without steps along the weight itself (Heo et al. 2021, arXiv:2006.08217)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import POSITIVE, UNIT
from optbench_llm.rules.projection import (
    PROJECTION_SUMS,
    measure_projection,
    project,
    some_channel_is_aligned,
)
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdamP(Rule):
    r"""Adam, projected where a weight looks scale-invariant; decoupled weight decay.

    .. math::
        u_t &= \frac{m_t}{\sqrt{v_t/(1-\beta_2^t)} + \epsilon} \\
        u_t &\leftarrow u_t - \hat\theta\,(\hat\theta \cdot u_t), \quad
            \hat\theta = \theta / \lVert\theta\rVert
            \quad\text{if } \max|\cos(\theta, g)| < \delta / \sqrt{\dim\theta} \\
        \theta_t &= (1-\eta\lambda w)\,\theta_{t-1} - \frac{\eta}{1-\beta_1^t}\,u_t

    for each output channel of a weight, else for the whole weight; w is ``wd_ratio`` where a
    projection took place, else 1. Vectors and scalars are never projected.
    """

    scope = Scope.TENSOR
    by_channel = True
    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "delta": 0.1,
        "wd_ratio": 0.1,
        "nesterov": False,
    }
    ranges = {"delta": POSITIVE, "wd_ratio": UNIT}
    measures = PROJECTION_SUMS
    shortcut = staticmethod(some_channel_is_aligned)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        beta1 = h.betas[0]
        return {
            **corrections,
            "step_size": h.lr * corrections["correction1"],
            "direct": 1 - beta1 if h.nesterov else 0.0,
            "buffered": beta1 if h.nesterov else 1.0,
            "decay": h.lr * h.weight_decay,
            "delta": h.delta,
            "wd_ratio": h.wd_ratio,
        }

    @staticmethod
    def direction(g: Tensor, s: Any, c: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Adam's direction before the projection, and the two new moments."""
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        numerator = m * c.buffered + g * c.direct
        return numerator / (v.sqrt() * c.correction2 + c.eps), m, v

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        u, _, _ = AdamP.direction(g, s, c)
        return measure_projection(p, g, u, c)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        u, m, v = AdamP.direction(g, s, c)
        u, wd_ratio = project(p, u, c, sums)
        return p - p * (wd_ratio * c.decay) - u * c.step_size, {"exp_avg": m, "exp_avg_sq": v}
