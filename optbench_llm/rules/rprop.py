"""Rprop: a step size for each element, grown and shrunk by signs (Riedmiller & Braun 1993)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE, POSITIVE, Several
from optbench_llm.rules.rule import Rule, Slot, Update, sign

if TYPE_CHECKING:
    from torch import Tensor


class Rprop(Rule):
    r"""Resilient backpropagation, as torch has it; weight decay is coupled (torch has none).

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        \eta_t &= \operatorname{clip}(\eta_{t-1}\,\eta_+,\, \Gamma_{min},\, \Gamma_{max})
            \quad\text{where } g_t\,g_{t-1} > 0 \\
        \eta_t &= \operatorname{clip}(\eta_{t-1}\,\eta_-,\, \Gamma_{min},\, \Gamma_{max}),
            \quad g_t \leftarrow 0 \quad\text{where } g_t\,g_{t-1} < 0 \\
        \theta_t &= \theta_{t-1} - \eta_t \operatorname{sign}(g_t)

    ``etas`` are :math:`(\eta_-, \eta_+)`, ``step_sizes`` :math:`(\Gamma_{min}, \Gamma_{max})`. The
    lr is :math:`\eta_0` and nothing else: schedules have no effect after the first step, and a
    warm-up from 0 makes every step size begin at :math:`\Gamma_{min}`. Made for full batches, where
    signs do not flip by chance.
    """

    slots = (
        # Only its sign counts, and 8 bits would round small gradients to 0.
        Slot("previous_grad", delicate=True),
        # Ten powers of ten lie between step sizes, and each decides its element's whole step.
        Slot(
            "step_size",
            positive=True,
            delicate=True,
            initial=lambda p, g, h: p.new_full(p.shape, h.lr),
        ),
    )
    defaults = {
        "lr": 1e-2,
        "etas": (0.5, 1.2),
        "step_sizes": (1e-6, 50.0),
        "weight_decay": 0.0,
    }
    ranges = {"etas": Several(POSITIVE, 2), "step_sizes": Several(NON_NEGATIVE, 2)}

    @staticmethod
    def conflict(h: Any) -> str | None:
        (eta_minus, eta_plus), (smallest, largest) = h.etas, h.step_sizes
        if not eta_minus < 1 < eta_plus:
            return f"etas={h.etas!r} must be a factor below 1 and one above 1, such as (0.5, 1.2)"
        if smallest > largest:
            return f"step_sizes={h.step_sizes!r} must be the smallest, then the largest"
        return None

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "eta_minus": h.etas[0],
            "eta_plus": h.etas[1],
            "smallest": h.step_sizes[0],
            "largest": h.step_sizes[1],
            "l2": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        agreement = g * s.previous_grad
        turned = agreement < 0
        grown = (s.step_size * c.eta_plus).where(agreement > 0, s.step_size)
        step_size = (s.step_size * c.eta_minus).where(turned, grown).clamp(c.smallest, c.largest)
        g = g.where(~turned, 0.0)
        return p - sign(g) * step_size, {"previous_grad": g, "step_size": step_size}
