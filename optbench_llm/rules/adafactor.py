"""AdaFactor: a second moment from row and column means (Shazeer & Stern 2018, arXiv:1804.04235)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import (
    FLAG,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Optional,
    Several,
)
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdaFactor(Rule):
    r"""Factored second moments, clipped updates, steps relative to the parameter's size.

    .. math::
        R_t &= \hat\beta_t R_{t-1}
            + (1-\hat\beta_t) \operatorname{mean}_{col}(g_t^2 + \epsilon_1),
            \quad \hat\beta_t = 1 - t^{-\gamma} \\
        C_t &= \hat\beta_t C_{t-1}
            + (1-\hat\beta_t) \operatorname{mean}_{row}(g_t^2 + \epsilon_1) \\
        u_t &= g_t / \sqrt{R_t C_t / \operatorname{mean}(R_t)}, \quad
            \hat u_t = u_t / \max(1, \operatorname{RMS}(u_t) / d) \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \alpha_t\,\hat u_t, \quad
            \alpha_t = \max(\epsilon_2, \operatorname{RMS}(\theta_{t-1})) \min(\eta, 1/\sqrt t)

    Vectors keep a full second moment. ``relative_step=False`` takes lr itself for the minimum,
    ``scale_parameter=False`` leaves the parameter's RMS out; both off is what most fine-tuning
    scripts run. ``beta1`` adds a momentum of the updates. :math:`\gamma` = ``decay_rate``, d =
    ``clip_threshold``. Weight decay is torch's; the paper has none.
    """

    scope = Scope.MATRIX
    slots = (
        Slot("exp_avg_sq_row", shape="row", positive=True),
        Slot("exp_avg_sq_col", shape="column", positive=True),
        Slot("exp_avg_sq", positive=True),
        Slot("exp_avg"),
    )
    defaults = {
        "lr": 1e-2,
        "eps": (1e-30, 1e-3),
        "clip_threshold": 1.0,
        "decay_rate": 0.8,
        "beta1": None,
        "weight_decay": 0.0,
        "scale_parameter": True,
        "relative_step": True,
    }
    ranges = {
        "eps": Several(NON_NEGATIVE, 2),
        "clip_threshold": POSITIVE,
        "decay_rate": UNIT,
        "beta1": Optional(FRACTION),
        "scale_parameter": FLAG,
        "relative_step": FLAG,
    }

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        row, column, full, momentum = cls.slots
        second = (row, column) if len(shape) >= 2 else (full,)
        return second if h.beta1 is None else (*second, momentum)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        scaled = float(h.scale_parameter)
        return {
            "lr": min(h.lr, t**-0.5) if h.relative_step else h.lr,
            "decay": decoupled_decay(h),
            "weight": t**-h.decay_rate,
            "eps1": h.eps[0],
            "smallest_scale": h.eps[1],
            "scaled": scaled,
            "unscaled": 1 - scaled,
            "clip": h.clip_threshold,
            "momentum_weight": 1 - (h.beta1 or 0.0),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        square = g * g + c.eps1
        if s.exp_avg_sq is None:
            row = ema(s.exp_avg_sq_row, square.mean(-1), c.weight)
            column = ema(s.exp_avg_sq_col, square.mean(-2), c.weight)
            new = {"exp_avg_sq_row": row, "exp_avg_sq_col": column}
            u = over_factored_root(g, row, column)
        else:
            new = {"exp_avg_sq": ema(s.exp_avg_sq, square, c.weight)}
            u = g * new["exp_avg_sq"].rsqrt()
        size = rms(p).clamp(min=c.smallest_scale) * c.scaled + c.unscaled
        step = u * (size * c.lr / (rms(u) / c.clip).clamp(min=1.0))
        if s.exp_avg is not None:
            step = new["exp_avg"] = ema(s.exp_avg, step, c.momentum_weight)
        return p * c.decay - step, new


def over_factored_root(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """``x / sqrt(row column^T / mean(row))``, for each of the matrices in the last two dims."""
    relative = (row / row.mean(-1, keepdim=True)).rsqrt()
    return x * relative.unsqueeze(-1) * column.rsqrt().unsqueeze(-2)


def rms(x: Tensor) -> Tensor:
    """Root mean square of all elements."""
    return (x * x).mean().sqrt()
