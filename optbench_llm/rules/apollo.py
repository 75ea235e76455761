"""Apollo: a diagonal quasi-Newton method (Ma 2020, arXiv:2009.13586); not the low-rank APOLLO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, FRACTION, POSITIVE
from optbench_llm.rules.rule import Rule, Scope, Slot, Update

if TYPE_CHECKING:
    from torch import Tensor

#: Below this the approximated curvature counts as this; the authors' 0.01 only scales lr and eps.
SMALLEST_CURVATURE = 0.01


class Apollo(Rule):
    r"""A diagonal Hessian that fits how the mean gradient changed along the last direction.

    .. math::
        m_t &= m_{t-1} + \alpha_t\,(g_t - m_{t-1}), \quad
            \alpha_t = (1-\beta) / (1-\beta^t) \\
        B_t &= B_{t-1} - \frac{d_{t-1}^\top (m_t - m_{t-1})
            + d_{t-1}^\top B_{t-1}\, d_{t-1}}{(\lVert d_{t-1} \rVert_4 + \epsilon/\sigma)^4}
            \operatorname{Diag}(d_{t-1}^2) \\
        d_t &= m_t / \max(|B_t|, \sigma), \quad \sigma = 0.01 \\
        \theta_t &= \theta_{t-1} - \eta\,d_t

    The norms are over one tensor; :math:`d_0 = B_0 = 0`. Weight decay is a term of the gradient
    (Apollo) or, with ``decouple``, of the direction :math:`d_t` (the authors' ApolloW), where the
    next step's fit sees it too. The authors raise the lr from nearly 0 over at least 100 steps,
    inside their optimizer; here warm-up stays with the scheduler, and should not be left out. They
    take lr 0.1 for language models. Their ``belief`` bound and ``stable`` decay are left out.
    """

    scope = Scope.TENSOR
    slots = (Slot("exp_avg"), Slot("approx_hessian", delicate=True), Slot("direction"))
    defaults = {"lr": 1e-2, "beta": 0.9, "eps": 1e-4, "weight_decay": 0.0, "decouple": False}
    ranges = {"beta": FRACTION, "eps": POSITIVE, "decouple": FLAG}
    measures = ("direction_4", "change_along", "curvature_along")

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "weight": (1 - h.beta) / (1 - h.beta**t),
            "eps": h.eps / SMALLEST_CURVATURE,
            "l2": 0.0 if h.decouple else h.weight_decay,
            "weight_decay": h.weight_decay if h.decouple else 0.0,
        }

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        change = (g + p * c.l2 - s.exp_avg) * c.weight
        square = s.direction * s.direction
        curvature = s.approx_hessian * square
        return (square * square).sum(), (change * s.direction).sum(), curvature.sum()

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = s.exp_avg + (g + p * c.l2 - s.exp_avg) * c.weight
        size = sums.direction_4**0.25 + c.eps
        unit = s.direction / size
        missing = (sums.change_along + sums.curvature_along) / (size * size)
        # Beyond fp32's range of the norm there is no direction to fit along: inf / inf.
        missing = missing.where(size.isfinite(), 0.0)
        hessian = s.approx_hessian - unit * unit * missing
        direction = m / hessian.abs().clamp(min=SMALLEST_CURVATURE) + p * c.weight_decay
        new = {"exp_avg": m, "approx_hessian": hessian, "direction": direction}
        return p - direction * c.lr, new
