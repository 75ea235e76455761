"""Shampoo: a preconditioner for each side of a matrix (Gupta et al. 2018, arXiv:1802.09568)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.hyperparameters import COUNT, NON_NEGATIVE
from optbench_llm.rules.matrix_roots import (
    between,
    inverse_root,
    second_moments,
    without_large_sides,
)
from optbench_llm.rules.rule import (
    MATRIX_ROLES,
    Rule,
    Scope,
    Slot,
    Update,
    bias_corrections,
    decoupled_decay,
    ema,
)

if TYPE_CHECKING:
    from torch import Tensor


class Shampoo(Rule):
    r"""Inverse fourth roots of the second moments of rows and columns, as long as Adam's step.

    .. math::
        L_t &= \beta_2 L_{t-1} + (1-\beta_2)\,G_t G_t^\top, \quad
            R_t = \beta_2 R_{t-1} + (1-\beta_2)\,G_t^\top G_t \\
        M_t &= \beta_1 M_{t-1} + (1-\beta_1)\,G_t, \quad
            V_t = \beta_2 V_{t-1} + (1-\beta_2)\,G_t^2 \\
        A_t &= \frac{M_t / (1-\beta_1^t)}{\sqrt{V_t / (1-\beta_2^t)} + \epsilon}, \quad
            P_t = \hat L^{-1/4} M_t \hat R^{-1/4} \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,\frac{\|A_t\|}{\|P_t\|} P_t

    :math:`\hat L = L_t/(1-\beta_2^t) + \kappa I`, with :math:`\kappa` = ``matrix_eps``, is taken
    at each step that ``precondition_frequency`` divides; before the first, :math:`A_t` itself is
    the direction. The paper sums :math:`L_t, R_t` and steps by :math:`P_t`; averages, corrections,
    momentum and the grafted length are those of Meta's Distributed Shampoo (arXiv:2309.06497; a
    frequency of 100 in its examples). It cuts a side longer than ``max_precond_dim`` into blocks;
    here that side is left out, and the other's root is -1/2.
    """

    scope = Scope.MATRIX
    by_layout = True
    companion = AdamW
    roles = MATRIX_ROLES
    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_sq", positive=True),
        Slot("left", "left", delicate=True),
        Slot("right", "right", delicate=True),
        Slot("left_root", "left", delicate=True),
        Slot("right_root", "right", delicate=True),
    )
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "matrix_eps": 1e-12,
        "weight_decay": 0.0,
        "precondition_frequency": 10,
        "max_precond_dim": 8192,
    }
    ranges = {"matrix_eps": NON_NEGATIVE, "precondition_frequency": COUNT, "max_precond_dim": COUNT}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return without_large_sides(cls.slots, shape, h.max_precond_dim)

    @staticmethod
    def stages(h: Any, t: int) -> tuple[str, ...]:
        return ("accumulate" if t % h.precondition_frequency else "take_roots", "update")

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            **bias_corrections(h, t),
            "unbias": 1 / (1 - h.betas[1] ** t),
            "matrix_eps": h.matrix_eps,
            "lr": h.lr,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def accumulate(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """The second moments of both sides."""
        return second_moments(g, s, c.weight2)

    @staticmethod
    def take_roots(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """The second moments of both sides, and their inverse roots."""
        moments = second_moments(g, s, c.weight2)
        halvings = len(moments)
        roots = {
            f"{side}_root": inverse_root(moment * c.unbias, c.matrix_eps, halvings)
            for side, moment in moments.items()
        }
        return {**moments, **roots}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        direction = adam = m * c.correction1 / (v.sqrt() * c.correction2 + c.eps)
        if s.left is not None or s.right is not None:
            preconditioned = between(s.left_root, m, s.right_root)
            length = preconditioned.norm()
            grafted = preconditioned * (adam.norm() / length)
            # No length: no roots yet, or nothing but zero gradients.
            direction = grafted.where(length > 0, adam)
        return p * c.decay - direction * c.lr, {"exp_avg": m, "exp_avg_sq": v}
