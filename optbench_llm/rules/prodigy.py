"""Prodigy: Adam that estimates its own step size (Mishchenko & Defazio 2023, arXiv:2306.06101)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, FRACTION, POSITIVE, Interval, Optional
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class Prodigy(Rule):
    r"""Adam whose lr is the distance to the solution, estimated over the whole model.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\,d_{t-1}\,g_t, \quad
            v_t = \beta_2 v_{t-1} + (1-\beta_2)\,d_{t-1}^2\,g_t^2 \\
        r_t &= \beta_3 r_{t-1}
            + \eta_t d_{t-1}^2 \langle g_t,\, \theta_0 - \theta_{t-1} \rangle, \quad
            s_t = \beta_3 s_{t-1} + \eta_t d_{t-1}^2 g_t \\
        \hat d_t &= c\,r_t / \lVert s_t \rVert_1, \quad
            d_t = \min\bigl(\max_{i \le t}(d_0, \hat d_i),\ G\,d_{t-1}\bigr) \\
        \theta_t &= (1-\eta_t d_{t-1}\lambda)\,\theta_{t-1}
            - \eta_t d_{t-1}\,m_t / (\sqrt{v_t} + d_t\,\epsilon)

    :math:`\eta_t` is lr, times Adam's bias corrections under ``use_bias_correction``; leave lr at 1
    and tune c = ``d_coef`` instead. G = ``growth_rate`` (None: no bound) does not bound the first
    growth of d.
    ``beta3`` None means :math:`\sqrt{\beta_2}`. ``safeguard_warmup`` leaves :math:`\eta_t` out of
    s, for schedules that begin low. ``decouple=False`` makes weight decay a term of the gradient.
    Parameters whose lr is 0 keep out of the estimate. All this is the authors' code; the paper
    (algorithm 4) has the defaults alone. Not here: ``slice_p``, an approximation that saves memory.
    """

    scope = Scope.MODEL
    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_sq", positive=True),
        Slot("s", delicate=True),
        Slot("p0", delicate=True, initial=lambda p, g, h: p),
    )
    defaults = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decouple": True,
        "use_bias_correction": False,
        "safeguard_warmup": False,
        "d0": 1e-6,
        "d_coef": 1.0,
        "growth_rate": None,
    }
    ranges = {
        "beta3": Optional(FRACTION),
        "decouple": FLAG,
        "use_bias_correction": FLAG,
        "safeguard_warmup": FLAG,
        "d0": POSITIVE,
        "d_coef": POSITIVE,
        "growth_rate": Optional(Interval(1.0, open_high=True)),
    }
    #: ``d`` 0 stands for ``d0``; ``counted`` are the steps that saw a gradient.
    carry = {"d": 0.0, "d_max": 0.0, "numerator": 0.0, "counted": 0.0}
    measures = ("progress", "s_l1")
    conclusions = ("d", "d_max", "numerator", "counted")

    @staticmethod
    def caution(h: Any) -> str | None:
        if h.lr == 0 or 0.1 <= h.lr <= 10:
            return None
        return (
            f"lr={h.lr:g} scales a step size that the method estimates itself, 1 is meant;"
            " set lr=1, and d_coef to enlarge or lessen the estimate"
        )

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, int(carry["counted"]) + 1)
        bias = corrections["correction1"] / corrections["correction2"]
        d = carry["d"] or h.d0
        lr = h.lr * (bias if h.use_bias_correction else 1.0)
        on = float(h.lr > 0)
        return {
            **carry,
            "d": d,
            "on": on,
            "weight1": corrections["weight1"] * on,
            "weight2": corrections["weight2"] * on,
            "beta3": _beta3(h) if on else 1.0,
            # Over d0, since d squared alone may leave fp32's range; r and s carry the same factor.
            "weight_s": d / h.d0 * d * (1.0 if h.safeguard_warmup else lr) * on,
            "weight_r": d / h.d0 * d * lr,
            "step_size": d * lr,
            "eps": h.eps,
            "decay": 1 - d * lr * h.weight_decay if h.decouple else 1.0,
            "l2": 0.0 if h.decouple else h.weight_decay,
        }

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        g = g + p * c.l2
        gathered = s.s * c.beta3 + g * c.weight_s
        return (g * (s.p0 - p)).sum() * c.weight_r, gathered.abs().sum() * c.on

    @staticmethod
    def conclude(h: Any, c: Any, sums: Any) -> dict[str, float]:
        d, d_max, numerator, counted = c.d, c.d_max or h.d0, c.numerator, c.counted
        if sums.s_l1 > 0:
            numerator = numerator * _beta3(h) + sums.progress
            estimate = h.d_coef * numerator / sums.s_l1
            if d == h.d0:
                d = max(d, estimate)
            d_max = max(d_max, estimate)
            d = d_max if h.growth_rate is None else min(d_max, d * h.growth_rate)
            counted += 1
        return {"d": d, "d_max": d_max, "numerator": numerator, "counted": counted}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        scaled = g * c.d
        m = ema(s.exp_avg, scaled, c.weight1)
        v = ema(s.exp_avg_sq, scaled * scaled, c.weight2)
        step = m / (v.sqrt() + sums.d * c.eps) * c.step_size
        gathered = s.s * c.beta3 + g * c.weight_s
        return p * c.decay - step, {"exp_avg": m, "exp_avg_sq": v, "s": gathered}


def _beta3(h: Any) -> float:
    return math.sqrt(h.betas[1]) if h.beta3 is None else h.beta3
