"""AdaBelief: steps by the belief in a gradient (Zhuang et al. 2020, arXiv:2010.07468)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG
from optbench_llm.rules.radam import rectification
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaBelief(Rule):
    r"""Adam with the variance around the momentum in place of the second moment.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        s_t &= \beta_2 s_{t-1} + (1-\beta_2) (g_t - m_t)^2 + \epsilon \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{s_t / (1-\beta_2^t)} + \epsilon}

    ``rectify``, on as in the authors' code, applies RAdam's rectification and takes plain momentum
    steps before it is defined.
    """

    slots = (Slot("exp_avg"), Slot("exp_avg_var", positive=True))
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-16,
        "weight_decay": 0.0,
        "rectify": True,
    }
    ranges = {"rectify": FLAG}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        step_size = h.lr * corrections["correction1"]
        numbers = {**corrections, "decay": decoupled_decay(h), "adaptive": step_size, "plain": 0.0}
        if h.rectify:
            rectified = rectification(h.betas[1], t)
            numbers["adaptive"] *= (rectified or 0.0) / corrections["correction2"]
            numbers["plain"] = step_size if rectified is None else 0.0
            numbers["correction2"] = 1.0
        return numbers

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        surprise = g - m
        v = ema(s.exp_avg_var, surprise * surprise, c.weight2) + c.eps
        rate = c.adaptive / (v.sqrt() * c.correction2 + c.eps) + c.plain
        return p * c.decay - rate * m, {"exp_avg": m, "exp_avg_var": v}
