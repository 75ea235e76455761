"""Cautious AdamW and Lion: no step against the gradient (Liang et al. 2024, arXiv:2411.16085)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.lion import Lion
from optbench_llm.rules.rule import Scope, Update, ema, sign

if TYPE_CHECKING:
    from torch import Tensor

AGREEMENT_SUMS = ("agreeing", "elements")
#: The mean of the mask counts as no less: a tensor with few agreeing elements is not blown up.
SMALLEST_SHARE = 1e-3


class CautiousAdamW(AdamW):
    r"""AdamW that moves only where its momentum and the gradient agree in sign.

    .. math::
        u_t &= \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}, \quad
            \phi_t = [m_t g_t > 0] \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{\phi_t}{\max(\operatorname{mean}(\phi_t), 10^{-3})}\,u_t

    with Adam's moments; the mean is over the tensor. The paper's algorithm 1 divides by the mean
    plus a small constant, the authors' code for AdamW by the mean but no less than 0.001, as here.
    """

    scope = Scope.TENSOR
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
    measures = AGREEMENT_SUMS

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        return count_agreement(ema(s.exp_avg, g, c.weight1), g)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        step = cautious(m, g, sums) / (v.sqrt() * c.correction2 + c.eps) * c.step_size
        return p * c.decay - step, {"exp_avg": m, "exp_avg_sq": v}


class CautiousLion(Lion):
    r"""Lion that moves only where its direction and the gradient agree in sign.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t), \quad
            \phi_t = [u_t g_t > 0] \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{\phi_t}{\max(\operatorname{mean}(\phi_t), 10^{-3})}\,u_t

    The mask is scaled as in :class:`CautiousAdamW`; the authors' code for Lion divides by
    :math:`(\sum\phi_t + 1)/d` over d elements, which halves the steps of a single number.
    """

    scope = Scope.TENSOR
    defaults = {"lr": 1e-4, "betas": (0.95, 0.98), "weight_decay": 0.0}
    measures = AGREEMENT_SUMS

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        return count_agreement(sign(ema(s.exp_avg, g, c.weight1)), g)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        u = sign(ema(s.exp_avg, g, c.weight1))
        step = cautious(u, g, sums) * c.lr
        return p * c.decay - step, {"exp_avg": ema(s.exp_avg, g, c.weight2)}


def count_agreement(u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """How many elements of a direction agree with the gradient, and how many there are."""
    return (u * g > 0).to(u.dtype).sum(), u.new_full((), u.numel())


def cautious(u: Tensor, g: Tensor, sums: Any) -> Tensor:
    """The direction where it agrees with the gradient, enlarged by the share of what was cut."""
    share = (sums.agreeing / sums.elements).clamp(min=SMALLEST_SHARE)
    return u * (u * g > 0) / share
