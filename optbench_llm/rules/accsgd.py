"""AccSGD: accelerated SGD with short and long steps (Kidambi et al. 2018, arXiv:1803.05591)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import Interval
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class AccSGD(Rule):
    r"""Short steps, drawn to a slow average of long steps; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \bar\theta_t &= \alpha\,\bar\theta_{t-1} + (1-\alpha)
            \Bigl(\theta_{t-1} - \frac{\kappa\eta}{c}\,g_t\Bigr),
            \quad \bar\theta_0 = \theta_0, \quad \alpha = 1 - c^2\xi/\kappa \\
        \theta_t &= \frac{c}{c + 1 - \alpha}\,(\theta_{t-1} - \eta g_t)
            + \frac{1-\alpha}{c + 1 - \alpha}\,\bar\theta_t

    with :math:`\kappa` = ``kappa``, the ratio of long to short step; :math:`\xi` = ``xi``, the
    statistical advantage, at most :math:`\sqrt\kappa`; :math:`c` = ``small_const``. Schedules
    reach the average late: an lr of 0 does not stop the parameter.
    """

    slots = (Slot("average", delicate=True, initial=lambda p, g, h: p),)
    defaults = {"lr": 0.1, "kappa": 1000.0, "xi": 10.0, "small_const": 0.7, "weight_decay": 0.0}
    ranges = {
        "kappa": Interval(1.0, open_high=True),
        "xi": Interval(1.0, open_high=True),
        "small_const": Interval(0.0, 1.0, open_low=True),
    }

    @staticmethod
    def conflict(h: Any) -> str | None:
        if h.xi**2 > h.kappa:
            return f"xi={h.xi!r} must be at most the root of kappa={h.kappa!r}"
        return None

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        weight = h.small_const**2 * h.xi / h.kappa
        return {
            "short": h.lr,
            "long": h.lr * h.kappa / h.small_const,
            "weight": weight,
            "pull": weight / (h.small_const + weight),
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        average = ema(s.average, p - g * c.long, c.weight)
        return ema(p - g * c.short, average, c.pull), {"average": average}
