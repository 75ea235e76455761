"""LAMB: Adam's direction, scaled per layer by a trust ratio (You et al. 2019, arXiv:1904.00962)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, POSITIVE, Optional
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, bias_corrections, ema, trust_ratio

if TYPE_CHECKING:
    from torch import Tensor


class Lamb(Rule):
    r"""Every tensor moves by a fixed fraction of its own norm, in Adam's direction.

    .. math::
        u_t &= \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}
            + \lambda\theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \eta\,
            \frac{\phi(\lVert\theta_{t-1}\rVert)}{\lVert u_t \rVert}\,u_t

    with Adam's moments. :math:`\phi` is the identity, or a minimum with ``clamp_value``; the ratio
    is 1 where either norm is 0. ``debias=False`` leaves the bias corrections out, as many
    implementations do; the paper (algorithm 2) has them.
    """

    scope = Scope.TENSOR
    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "debias": True,
        "clamp_value": None,
    }
    ranges = {"debias": FLAG, "clamp_value": Optional(POSITIVE)}
    measures = ("parameter_sq", "direction_sq")

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        if not h.debias:
            corrections.update(correction1=1.0, correction2=1.0)
        clamp = math.inf if h.clamp_value is None else h.clamp_value
        return {**corrections, "lr": h.lr, "weight_decay": h.weight_decay, "clamp": clamp}

    @staticmethod
    def direction(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Adam's direction with weight decay, and the two new moments."""
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        u = m * c.correction1 / (v.sqrt() * c.correction2 + c.eps) + p * c.weight_decay
        return u, m, v

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        u, _, _ = Lamb.direction(p, g, s, c)
        return (p * p).sum(), (u * u).sum()

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        u, m, v = Lamb.direction(p, g, s, c)
        ratio = trust_ratio(sums.parameter_sq.sqrt().clamp(max=c.clamp), sums.direction_sq.sqrt())
        return p - u * (ratio * c.lr), {"exp_avg": m, "exp_avg_sq": v}
