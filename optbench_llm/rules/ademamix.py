"""AdEMAMix: AdamW with a second, slow momentum (Pagliardini et al. 2024, arXiv:2409.03137)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import COUNT, FRACTION, NON_NEGATIVE, Optional, Several
from optbench_llm.rules.rule import Rule, Slot, Update, bias_corrections, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdEMAMix(Rule):
    r"""Adam's momentum plus :math:`\alpha` times a slow one that still holds very old gradients.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        s_t &= \beta_{3,t} s_{t-1} + (1-\beta_{3,t}) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t) + \alpha_t s_t}{\sqrt{v_t/(1-\beta_2^t)} + \epsilon}

    The slow momentum is not bias-corrected. Over ``alpha_warmup`` steps :math:`\alpha_t` grows
    linearly from 0, over ``beta3_warmup`` steps the half-life of :math:`\beta_{3,t}` grows linearly
    from that of :math:`\beta_1`, without the 1e-8 that the authors' code adds to each beta against
    log 0; None leaves a warm-up out. The defaults are those of the authors' code; their README's
    example takes alpha 8 and warms both up over the whole run.
    """

    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_slow", delicate=True),
        Slot("exp_avg_sq", positive=True),
    )
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999, 0.9999),
        "alpha": 2.0,
        "alpha_warmup": None,
        "beta3_warmup": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    ranges = {
        "betas": Several(FRACTION, 3),
        "alpha": NON_NEGATIVE,
        "alpha_warmup": Optional(COUNT),
        "beta3_warmup": Optional(COUNT),
    }

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, _, beta3 = h.betas
        return {
            **bias_corrections(h, t),
            "weight3": 1 - warmed_beta(beta1, beta3, _progress(t, h.beta3_warmup)),
            "alpha": h.alpha * _progress(t, h.alpha_warmup),
            "lr": h.lr,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        slow = ema(s.exp_avg_slow, g, c.weight3)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        step = (m * c.correction1 + slow * c.alpha) / (v.sqrt() * c.correction2 + c.eps)
        new = {"exp_avg": m, "exp_avg_slow": slow, "exp_avg_sq": v}
        return p * c.decay - step * c.lr, new


def _progress(t: int, warmup: int | None) -> float:
    return 1.0 if warmup is None else min(1.0, t / warmup)


def warmed_beta(start: float, end: float, progress: float) -> float:
    """The beta whose half-life lies at ``progress`` (0 to 1) between those of two betas."""
    half_life = (1 - progress) * _half_life(start) + progress * _half_life(end)
    return 0.5 ** (1 / half_life) if half_life else 0.0


def _half_life(beta: float) -> float:
    """Steps after which an average has forgotten half."""
    return math.log(0.5) / math.log(beta) if beta else 0.0
