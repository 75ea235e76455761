"""NovoGrad: gradients normalised per tensor (Ginsburg et al. 2019, arXiv:1905.11286)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class NovoGrad(Rule):
    r"""Momentum of gradients over their tensor's running norm; one scalar second moment a tensor.

    .. math::
        v_1 &= \lVert g_1 \rVert^2, \quad
            v_t = \beta_2 v_{t-1} + (1-\beta_2) \lVert g_t \rVert^2 \\
        m_t &= \beta_1 m_{t-1} + \Bigl(\frac{g_t}{\sqrt{v_t} + \epsilon}
            + \lambda\theta_{t-1}\Bigr) \\
        \theta_t &= \theta_{t-1} - \eta\,m_t

    ``grad_averaging`` weighs the new term by :math:`1-\beta_1`.
    """

    scope = Scope.TENSOR
    slots = (Slot("exp_avg"), Slot("exp_avg_sq", shape="scalar", positive=True))
    defaults = {
        "lr": 1e-2,
        "betas": (0.95, 0.98),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "grad_averaging": False,
    }
    ranges = {"grad_averaging": FLAG}
    measures = ("gradient_sq",)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        return {
            "lr": h.lr,
            "beta1": beta1,
            "gradient": 1 - beta1 if h.grad_averaging else 1.0,
            "weight2": 1.0 if t == 1 else 1 - beta2,
            "eps": h.eps,
            "weight_decay": h.weight_decay,
        }

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        return ((g * g).sum(),)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        v = ema(s.exp_avg_sq, sums.gradient_sq, c.weight2)
        direction = g / (v.sqrt() + c.eps) + p * c.weight_decay
        m = s.exp_avg * c.beta1 + direction * c.gradient
        return p - m * c.lr, {"exp_avg": m, "exp_avg_sq": v}
