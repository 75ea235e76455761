"""StableAdamW: AdamW with AdaFactor's update clipping (Wortsman et al. 2023, arXiv:2304.13013)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Scope, Slot, Update, bias_corrections, ema

if TYPE_CHECKING:
    from torch import Tensor


class StableAdamW(Rule):
    r"""AdamW whose lr falls, tensor by tensor, while its second moment is out of date.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad \hat m_t = m_t / (1-\beta_1^t) \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad \hat v_t = v_t / (1-\beta_2^t) \\
        \eta_t &= \eta / \max\bigl(1, \sqrt{\operatorname{mean}(
            g_t^2 / \max(\hat v_t, \epsilon^2))}\bigr) \\
        \theta_t &= (1-\eta_t\lambda)\,\theta_{t-1}
            - \eta_t\,\hat m_t / (\sqrt{\hat v_t} + \epsilon)

    The weight decay follows the reduced lr (paper, algorithm 2).
    """

    scope = Scope.TENSOR
    slots = (Slot("exp_avg"), Slot("exp_avg_sq", positive=True))
    defaults = {"lr": 2e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}
    measures = ("relative_sq", "elements")

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {**bias_corrections(h, t), "lr": h.lr, "weight_decay": h.weight_decay}

    @staticmethod
    def root(g: Tensor, s: Any, c: Any) -> tuple[Tensor, Tensor]:
        """The new second moment, and its corrected root."""
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        return v, v.sqrt() * c.correction2

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        _, root = StableAdamW.root(g, s, c)
        relative = g / root.clamp(min=c.eps)
        return (relative * relative).sum(), g.new_full((), g.numel())

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        v, root = StableAdamW.root(g, s, c)
        lr = c.lr / (sums.relative_sq / sums.elements).sqrt().clamp(min=1.0)
        step = m * c.correction1 / (root + c.eps)
        return p * (1 - lr * c.weight_decay) - step * lr, {"exp_avg": m, "exp_avg_sq": v}
