"""AdaDelta: steps in the parameter's own units (Zeiler 2012, arXiv:1212.5701), as torch has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaDelta(Rule):
    r"""The gradient scaled by a ratio of running root mean squares; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        v_t &= \rho v_{t-1} + (1-\rho) g_t^2 \\
        \delta_t &= \sqrt{u_{t-1} + \epsilon} \, g_t / \sqrt{v_t + \epsilon} \\
        u_t &= \rho u_{t-1} + (1-\rho) \delta_t^2 \\
        \theta_t &= \theta_{t-1} - \eta\,\delta_t

    The paper has no lr: use about 1.
    """

    slots = (Slot("square_avg", positive=True), Slot("acc_delta", positive=True))
    defaults = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {"lr": h.lr, "l2": h.weight_decay, "weight": 1 - h.rho, "eps": h.eps}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        v = ema(s.square_avg, g * g, c.weight)
        delta = (s.acc_delta + c.eps).sqrt() * g / (v + c.eps).sqrt()
        new = {"square_avg": v, "acc_delta": ema(s.acc_delta, delta * delta, c.weight)}
        return p - delta * c.lr, new
