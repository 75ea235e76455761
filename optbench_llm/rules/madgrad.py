"""MADGRAD: dual averaging with cube roots (Defazio & Jelassi 2021, arXiv:2101.11075)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


#: fp32 numbers below this count as it: those below 1.2e-38 have fewer bits.
SMALLEST = 1e-37
#: Two thirds of the bits of 1, less what makes the guess of a root err as much to both sides.
TWO_THIRDS = 709_958_130.0
#: Of the Taylor series of the cube root at 1, from the last one.
CUBE_ROOT_SERIES = (22 / 729, -10 / 243, 5 / 81, -1 / 9, 1 / 3)


class MADGRAD(Rule):
    r"""Momentumized, adaptive, dual averaged gradient; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \lambda_t &= (\eta + \epsilon)\sqrt t \\
        s_t &= s_{t-1} + \lambda_t g_t, \quad v_t = v_{t-1} + \lambda_t g_t^2 \\
        z_t &= \theta_0 - s_t / (\sqrt[3]{v_t} + \epsilon) \\
        \theta_t &= \mu\,\theta_{t-1} + (1-\mu)\,z_t

    with :math:`\mu` = ``momentum``. The :math:`\epsilon` beside the lr is the authors' code's (0
    where the lr is), the paper has none. An lr of 0 does not stop the parameter on its way to z.
    """

    slots = (
        # Errors of rounding would add up as the sums do: nothing is ever forgotten.
        Slot("grad_sum_sq", positive=True, delicate=True),
        Slot("grad_sum", delicate=True),
        Slot("x0", delicate=True, initial=lambda p, g, h: p),
    )
    defaults = {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "step_size": (h.lr + h.eps) * math.sqrt(t) if h.lr else 0.0,
            "weight": 1 - h.momentum,
            "eps": h.eps,
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        v = s.grad_sum_sq + g * g * c.step_size
        total = s.grad_sum + g * c.step_size
        root = cube_root(v) + c.eps
        # Without eps, 0 / 0 where no gradient has come yet.
        z = s.x0 - (total / root).where(root != 0, 0.0)
        return ema(p, z, c.weight), {"grad_sum_sq": v, "grad_sum": total}


def cube_root(x: Tensor) -> Tensor:
    """The cube root of numbers >= 0, in fp32 within 1.3e-7 of itself.

    In fp32 from the number's bits: a power that is no square root takes ten times as long, and a
    logarithm as long as all the rest.
    """
    from torch import float32, int32

    if x.dtype != float32:
        root = (x.log() * (1 / 3)).exp()
        return (root - (root - x / (root * root)) * (1 / 3)).where(x > 0, x)
    bounded = x.clamp(min=SMALLEST)
    # The bits of a number are nearly its logarithm: a third of them is a root that is 3 % off.
    guess = (bounded.view(int32).to(float32) * (1 / 3) + TWO_THIRDS).to(int32).view(float32)
    rest = bounded / (guess * guess * guess) - 1
    series = rest * CUBE_ROOT_SERIES[0]
    for coefficient in CUBE_ROOT_SERIES[1:]:
        series = (series + coefficient) * rest
    return (guess + guess * series).where(x > 0, x)
