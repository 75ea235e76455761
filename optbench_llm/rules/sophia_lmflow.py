"""Sophia as LMFlow ran it for the published table: a momentum that no curvature divides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FRACTION, POSITIVE
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class SophiaLMFlow(Rule):
    r"""Bias-corrected momentum with the step :math:`\eta/\rho`; weight decay is coupled.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)(g_t + \lambda\theta_{t-1}) \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{m_t/(1-\beta_1^t)}{\sqrt{h} + \rho},
            \quad h = 0

    What LMFlow's ``SophiaG`` did when its figures were published (commit 92adfcdd): its ``step``
    divides by :math:`\sqrt h + \rho` and clips nothing, and nothing ever calls its
    ``update_hessian``. So h stays 0 and is not kept here; beta2 has no effect and is left out.
    """

    slots = (Slot("exp_avg"),)
    defaults = {"lr": 1e-4, "beta1": 0.965, "rho": 0.04, "weight_decay": 0.1}
    ranges = {"beta1": FRACTION, "rho": POSITIVE}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "l2": h.weight_decay,
            "weight1": 1 - h.beta1,
            "step_size": h.lr / h.rho / (1 - h.beta1**t),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g + p * c.l2, c.weight1)
        return p - m * c.step_size, {"exp_avg": m}
