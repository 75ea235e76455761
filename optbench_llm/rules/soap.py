"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.hyperparameters import COUNT
from optbench_llm.rules.matrix_roots import (
    between,
    eigen,
    second_moments,
    turned,
    without_large_sides,
)
from optbench_llm.rules.products import product
from optbench_llm.rules.rule import MATRIX_ROLES, Rule, Scope, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class Soap(Rule):
    r"""Adam on the gradient seen in slowly turning eigenbases of its rows' and columns' moments.

    .. math::
        G'_t &= Q_L^\top G_t Q_R \\
        M_t &= \beta_1 M_{t-1} + (1-\beta_1)\,G'_t, \quad
            V_t = \beta_2 V_{t-1} + (1-\beta_2)\,G_t'^2 \\
        \theta_t &= (1-\eta\lambda)\Bigl(\theta_{t-1} - \eta\,\frac{\sqrt{1-\beta_2^n}}{1-\beta_1^n}
            \, Q_L \frac{M_t}{\sqrt{V_t} + \epsilon} Q_R^\top\Bigr), \quad n = t - 1 \\
        L_t &= \beta_2 L_{t-1} + (1-\beta_2)\,G_t G_t^\top, \quad
            R_t = \beta_2 R_{t-1} + (1-\beta_2)\,G_t^\top G_t

    The first step moves nothing: the eigenvectors of its :math:`L_1, R_1` become :math:`Q_L, Q_R`.
    After each ``precondition_frequency`` further steps :math:`Q \leftarrow QR(L_t Q)`, its columns
    first sorted by eigenvalue and V along with them; M is carried over to the new basis, V is not
    (all as in the authors' code, as are the decay after the step and the uncorrected eps). A side
    longer than ``max_precond_dim`` keeps the identity for its basis.
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
        Slot("left_basis", "left", delicate=True),
        Slot("right_basis", "right", delicate=True),
    )
    defaults = {
        "lr": 3e-3,
        "betas": (0.95, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "precondition_frequency": 10,
        "max_precond_dim": 10000,
    }
    ranges = {"precondition_frequency": COUNT, "max_precond_dim": COUNT}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return without_large_sides(cls.slots, shape, h.max_precond_dim)

    @staticmethod
    def stages(h: Any, t: int) -> tuple[str, ...]:
        if t == 1:
            return ("initialise",)
        return ("update", "turn") if (t - 1) % h.precondition_frequency == 0 else ("update",)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        n = max(t - 1, 1)
        return {
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "step_size": h.lr * (1 - beta2**n) ** 0.5 / (1 - beta1**n),
            "eps": h.eps,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def initialise(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """The first second moments and their eigenvectors, by falling eigenvalue."""
        moments = second_moments(g, s, c.weight2)
        bases = {f"{side}_basis": eigen(moments[side])[1].flip(1) for side in moments}
        return {**moments, **bases}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        seen = between(s.left_basis, g, s.right_basis)
        m = ema(s.exp_avg, seen, c.weight1)
        v = ema(s.exp_avg_sq, seen * seen, c.weight2)
        step = out_of_basis(m / (v.sqrt() + c.eps), s.left_basis, s.right_basis)
        new = {"exp_avg": m, "exp_avg_sq": v, **second_moments(g, s, c.weight2)}
        return (p - step * c.step_size) * c.decay, new

    @staticmethod
    def turn(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """Better eigenvectors; the first moment follows, the second is only sorted."""
        left, right, v = s.left_basis, s.right_basis, s.exp_avg_sq
        if left is not None:
            left, order = turned(s.left, left)
            v = v[order]
        if right is not None:
            right, order = turned(s.right, right)
            v = v[:, order]
        m = between(left, out_of_basis(s.exp_avg, s.left_basis, s.right_basis), right)
        new = {"exp_avg": m, "exp_avg_sq": v, "left_basis": left, "right_basis": right}
        return {name: value for name, value in new.items() if value is not None}


def out_of_basis(g: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """What :func:`between` took into orthogonal bases, taken back; None stands for the identity."""
    g = g if left is None else product(left, g)
    return g if right is None else product(g, right.mT)
