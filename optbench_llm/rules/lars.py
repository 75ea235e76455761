"""LARS: SGD with a learning rate for each layer (You et al. 2017, arXiv:1708.03888)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import POSITIVE
from optbench_llm.rules.rule import Rule, Scope, Slot, Update

if TYPE_CHECKING:
    from torch import Tensor


class Lars(Rule):
    r"""Momentum of gradients scaled by the ratio of their tensor's norms.

    .. math::
        r_t &= \tau\,\lVert\theta_{t-1}\rVert /
            (\lVert g_t \rVert + \lambda\lVert\theta_{t-1}\rVert + \epsilon) \\
        b_t &= \mu b_{t-1} + \eta\,r_t\,(g_t + \lambda\theta_{t-1}) \\
        \theta_t &= \theta_{t-1} - b_t

    with :math:`\tau` = ``trust_coefficient``; the ratio is 1 where either norm is 0. The lr is
    inside the momentum, as in the paper. The ratio holds without weight decay as well.
    """

    scope = Scope.TENSOR
    slots = (Slot("momentum_buffer"),)
    defaults = {
        "lr": 1.0,
        "momentum": 0.9,
        "trust_coefficient": 1e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {"trust_coefficient": POSITIVE}
    measures = ("parameter_sq", "gradient_sq")

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return cls.slots if h.momentum else ()

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "momentum": h.momentum,
            "trust": h.trust_coefficient,
            "eps": h.eps,
            "weight_decay": h.weight_decay,
        }

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        return (p * p).sum(), (g * g).sum()

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        norm, gradient_norm = sums.parameter_sq.sqrt(), sums.gradient_sq.sqrt()
        scaled = norm * c.trust / (gradient_norm + norm * c.weight_decay + c.eps)
        ratio = scaled.where((norm > 0) & (gradient_norm > 0), 1.0)
        step = (g + p * c.weight_decay) * (ratio * c.lr)
        if s.momentum_buffer is None:
            return p - step, {}
        buffer = s.momentum_buffer * c.momentum + step
        return p - buffer, {"momentum_buffer": buffer}
