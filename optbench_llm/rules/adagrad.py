"""AdaGrad: the gradient over the root of all its squares (Duchi et al., JMLR 2011)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import Rule, Slot, Update

if TYPE_CHECKING:
    from torch import Tensor


class AdaGrad(Rule):
    r"""A sum that never forgets; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        v_t &= v_{t-1} + g_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{1 + (t-1)\,\gamma} \, g_t / (\sqrt{v_t} + \epsilon)

    with :math:`\gamma` = ``lr_decay`` and :math:`v_0` = ``initial_accumulator_value``.
    """

    slots = (
        Slot(
            "sum",
            positive=True,
            # Errors of rounding would add up as the squares do: nothing is ever forgotten.
            delicate=True,
            initial=lambda p, g, h: p.new_full(p.shape, h.initial_accumulator_value),
        ),
    )
    defaults = {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "weight_decay": 0.0,
    }
    ranges = {"lr_decay": NON_NEGATIVE, "initial_accumulator_value": NON_NEGATIVE}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {"lr": h.lr / (1 + (t - 1) * h.lr_decay), "l2": h.weight_decay, "eps": h.eps}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        total = s.sum + g * g
        return p - g / (total.sqrt() + c.eps) * c.lr, {"sum": total}
