"""PID: momentum as a controller, with a term for the gradient's change (An et al., CVPR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE, OPEN_FRACTION
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class PID(Rule):
    r"""The gradient, its decaying sum and its smoothed change; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        I_t &= \mu I_{t-1} + g_t \\
        D_t &= \mu D_{t-1} + (1-\mu)(g_t - g_{t-1}), \quad D_1 = 0 \\
        \theta_t &= \theta_{t-1} - \eta\,(g_t + K_I I_t + K_D D_t)

    with :math:`\mu` = ``momentum``, :math:`K_I` = ``integral``, :math:`K_D` = ``derivative``. Gains
    and defaults are those of the authors' code; the paper adds the derivative to momentum alone.
    Their code forgets :math:`g_1`, so that its second difference is :math:`g_2 - 0`; here, as in
    the paper, it is :math:`g_2 - g_1`.
    """

    slots = (
        Slot("integral_buffer"),
        Slot("derivative_buffer"),
        Slot("previous_grad", initial=lambda p, g, h: g + p * h.weight_decay),
    )
    defaults = {
        "lr": 1e-2,
        "momentum": 0.9,
        "integral": 5.0,
        "derivative": 10.0,
        "weight_decay": 0.0,
    }
    ranges = {
        "momentum": OPEN_FRACTION,
        "integral": NON_NEGATIVE,
        "derivative": NON_NEGATIVE,
    }

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "momentum": h.momentum,
            "weight": 1 - h.momentum,
            "integral": h.integral,
            "derivative": h.derivative,
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        total = s.integral_buffer * c.momentum + g
        change = ema(s.derivative_buffer, g - s.previous_grad, c.weight)
        step = g + total * c.integral + change * c.derivative
        new = {"integral_buffer": total, "derivative_buffer": change, "previous_grad": g}
        return p - step * c.lr, new
