"""Sophia-G and Sophia-H: momentum over clipped curvature (Liu et al. 2023, arXiv:2305.14342)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import HVP, POSITIVE
from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Sophia(Rule):
    r"""Sophia-G: the diagonal of the Gauss-Newton matrix, estimated every ``k`` steps.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        h_t &= \beta_2 h_{t-k} + (1-\beta_2) N\,\hat g_t^2 \quad\text{if } t \bmod k = 1 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\operatorname{sign}(m_t)
            \min\Bigl(\frac{|m_t|}{\rho\,h_t + \epsilon},\,1\Bigr)

    :math:`\hat g_t` is the gradient of the mean loss over N tokens whose labels were sampled from
    the model itself (Gauss-Newton-Bartlett, paper's algorithm 2). The program ``sophia-g`` makes
    it; without a Trainer, feed it through ``optimizer.observe(scale=N)``. Where a parameter had no
    gradient in an estimate, h stays 0 and it takes full sign steps until the next one.
    """

    programs = ("sophia-g",)
    slots = (Slot("exp_avg"), Slot("hessian", positive=True))
    defaults = {
        "lr": 1e-4,
        "betas": (0.965, 0.99),
        "rho": 0.04,
        "eps": 1e-15,
        "weight_decay": 0.1,
        "k": 10,
    }
    ranges = {"rho": POSITIVE}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        return {
            "lr": h.lr,
            "decay": decoupled_decay(h),
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "rho": h.rho,
            "eps": h.eps,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        ratio = (m.abs() / (s.hessian * c.rho + c.eps)).clamp(max=1.0)
        return p * c.decay - m.sign() * ratio * c.lr, {"exp_avg": m}

    @staticmethod
    def observe(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        return {"hessian": ema(s.hessian, g * g * c.scale, c.weight2)}


class SophiaH(Sophia):
    r"""Sophia-H: the diagonal of the Hessian itself, estimated every ``k`` steps.

    .. math::
        D &= u \odot H u, \quad u \sim \mathcal N(0, I) \quad\text{if } t \bmod k = 1 \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
            h_t = \beta_2 h_{t-k} + (1-\beta_2)\,D \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\operatorname{sign}(m_t)
            \min\Bigl(\frac{|m_t|}{\max(\rho\,h_t,\,\epsilon)},\,1\Bigr)

    Where the curvature is negative or nothing the step is a full one. The products H u come from
    the program ``hutchinson-normal`` (algorithm 1): from the gradient ahead and the step's own (one
    more pass), with ``hvp="finite-difference"`` from those ahead and behind (two), or with
    ``"autograd"`` by differentiating twice. The paper takes a part of the batch for them; here it
    is all of it. Without a Trainer, feed D through ``optimizer.observe()``.
    """

    programs = ("hutchinson-normal",)
    slots = (Slot("exp_avg"), Slot("hessian"))
    defaults = {
        **Sophia.defaults,
        "betas": (0.96, 0.99),
        "rho": 0.01,
        "eps": 1e-12,
        "hvp": "forward-difference",
    }
    ranges = {**Sophia.ranges, "hvp": HVP}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        ratio = (m.abs() / (s.hessian * c.rho).clamp(min=c.eps)).clamp(max=1.0)
        return p * c.decay - m.sign() * ratio * c.lr, {"exp_avg": m}

    @staticmethod
    def observe(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        return {"hessian": ema(s.hessian, g, c.weight2)}
