"""Grams: Adam's step length along the gradient's sign (Cao et al. 2024, arXiv:2412.17107)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.rule import Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class Grams(AdamW):
    r"""AdamW whose momentum sets the length of each element's step, the gradient its direction.

    .. math::
        u_t &= \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta \operatorname{sign}(g_t)\,|u_t|

    with Adam's moments. The authors' code adds eps before the bias correction of the second moment,
    the paper after it, as here.
    """

    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        step = m.abs() / (v.sqrt() * c.correction2 + c.eps) * c.step_size
        return p * c.decay - g.sign() * step, {"exp_avg": m, "exp_avg_sq": v}
