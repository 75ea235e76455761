"""CAME: AdaFactor's memory with a measure of confidence (Luo et al. 2023, arXiv:2307.02047)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adafactor import over_factored_root, rms
from optbench_llm.rules.hyperparameters import FRACTION, NON_NEGATIVE, POSITIVE, Several
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Came(Rule):
    r"""Momentum of factored-Adam updates, divided by how far those stray from it.

    .. math::
        R_t &= \beta_2 R_{t-1} + (1-\beta_2) \operatorname{mean}_{col}(g_t^2 + \epsilon_1), \quad
            C_t = \beta_2 C_{t-1} + (1-\beta_2) \operatorname{mean}_{row}(g_t^2 + \epsilon_1) \\
        u_t &= g_t / \sqrt{R_t C_t / \operatorname{mean}(R_t)}, \quad
            \hat u_t = u_t / \max(1, \operatorname{RMS}(u_t) / d) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\,\hat u_t, \quad
            U_t = (\hat u_t - m_t)^2 + \epsilon_2 \\
        R'_t &= \beta_3 R'_{t-1} + (1-\beta_3) \operatorname{mean}_{col}(U_t), \quad
            C'_t = \beta_3 C'_{t-1} + (1-\beta_3) \operatorname{mean}_{row}(U_t) \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,m_t / \sqrt{R'_t C'_t / \operatorname{mean}(R'_t)}

    No bias is corrected: the first step is about :math:`(1-\beta_1) / (\beta_1 \sqrt{1-\beta_3})`
    times lr long, 11 by default, so begin with a warm-up. As in the authors' code vectors keep a
    full second moment and step by :math:`m_t` undivided, matrices of more dimensions are batches of
    the last two, and the decay is decoupled. d = ``clip_threshold``.
    """

    scope = Scope.MATRIX
    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_sq_row", shape="row", positive=True),
        Slot("exp_avg_sq_col", shape="column", positive=True),
        Slot("exp_avg_res_row", shape="row", positive=True),
        Slot("exp_avg_res_col", shape="column", positive=True),
        Slot("exp_avg_sq", positive=True),
    )
    defaults = {
        "lr": 2e-4,
        "betas": (0.9, 0.999, 0.9999),
        "eps": (1e-30, 1e-16),
        "clip_threshold": 1.0,
        "weight_decay": 0.0,
    }
    ranges = {
        "betas": Several(FRACTION, 3),
        "eps": Several(NON_NEGATIVE, 2),
        "clip_threshold": POSITIVE,
    }

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        momentum, *factors, full = cls.slots
        return (momentum, *factors) if len(shape) >= 2 else (momentum, full)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        weights = {f"weight{i}": 1 - beta for i, beta in enumerate(h.betas, 1)}
        eps1, eps2 = h.eps
        return {
            **weights,
            "lr": h.lr,
            "eps1": eps1,
            "eps2": eps2,
            "clip": h.clip_threshold,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        square, new = g * g + c.eps1, {}
        if s.exp_avg_sq is None:
            row, column = _means(square, s.exp_avg_sq_row, s.exp_avg_sq_col, c.weight2)
            new.update(exp_avg_sq_row=row, exp_avg_sq_col=column)
            u = over_factored_root(g, row, column)
        else:
            new["exp_avg_sq"] = ema(s.exp_avg_sq, square, c.weight2)
            u = g * new["exp_avg_sq"].rsqrt()
        u = u / (rms(u) / c.clip).clamp(min=1.0)
        step = new["exp_avg"] = ema(s.exp_avg, u, c.weight1)
        if s.exp_avg_sq is None:
            stray = (u - step) * (u - step) + c.eps2
            row, column = _means(stray, s.exp_avg_res_row, s.exp_avg_res_col, c.weight3)
            new.update(exp_avg_res_row=row, exp_avg_res_col=column)
            step = over_factored_root(step, row, column)
        return p * c.decay - step * c.lr, new


def _means(x: Tensor, row: Tensor, column: Tensor, weight: Any) -> tuple[Tensor, Tensor]:
    """The averages of row and column means after x came in."""
    return ema(row, x.mean(-1), weight), ema(column, x.mean(-2), weight)
