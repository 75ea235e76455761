"""SGDP: SGD without steps along the weight itself (Heo et al. 2021, arXiv:2006.08217)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import POSITIVE, UNIT
from optbench_llm.rules.projection import (
    PROJECTION_SUMS,
    measure_projection,
    project,
    some_channel_is_aligned,
)
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, nesterov_without_momentum

if TYPE_CHECKING:
    from torch import Tensor


class SGDP(Rule):
    r"""SGD with momentum, projected where a weight looks scale-invariant; decoupled weight decay.

    .. math::
        b_t &= \mu b_{t-1} + (1-\tau) g_t, \quad b_0 = 0 \\
        u_t &= b_t \quad(\text{Nesterov: } g_t + \mu b_t)\quad\text{projected as in AdamP} \\
        \theta_t &= \Bigl(1-\frac{\eta\lambda w}{1-\mu}\Bigr)\,\theta_{t-1} - \eta\,u_t

    Without momentum and dampening there is no state.
    """

    scope = Scope.TENSOR
    by_channel = True
    slots = (Slot("momentum_buffer"),)
    defaults = {
        "lr": 0.1,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "eps": 1e-8,
        "delta": 0.1,
        "wd_ratio": 0.1,
    }
    ranges = {"delta": POSITIVE, "wd_ratio": UNIT}
    measures = PROJECTION_SUMS
    shortcut = staticmethod(some_channel_is_aligned)

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return cls.slots if h.momentum else ()

    @staticmethod
    def conflict(h: Any) -> str | None:
        return nesterov_without_momentum(h)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "momentum": h.momentum,
            "gradient": 1 - h.dampening,
            "stateless": 1.0 if h.nesterov else 1 - h.dampening,
            "direct": 1.0 if h.nesterov else 0.0,
            "buffered": h.momentum if h.nesterov else 1.0,
            "decay": h.lr * h.weight_decay / (1 - h.momentum),
            "eps": h.eps,
            "delta": h.delta,
            "wd_ratio": h.wd_ratio,
        }

    @staticmethod
    def direction(g: Tensor, s: Any, c: Any) -> Update:
        """SGD's direction before the projection, and the new momentum."""
        if s.momentum_buffer is None:
            return g * c.stateless, {}
        buffer = s.momentum_buffer * c.momentum + g * c.gradient
        return g * c.direct + buffer * c.buffered, {"momentum_buffer": buffer}

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        u, _ = SGDP.direction(g, s, c)
        return measure_projection(p, g, u, c)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        u, new = SGDP.direction(g, s, c)
        u, wd_ratio = project(p, u, c, sums)
        return p - p * (wd_ratio * c.decay) - u * c.lr, new
