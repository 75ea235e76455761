"""Scion: steps within a norm ball for each layer (Pethick et al. 2025, arXiv:2502.07529)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import POSITIVE, Interval
from optbench_llm.rules.newton_schulz import orthogonalise
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, decoupled_decay, ema, sign

if TYPE_CHECKING:
    from torch import Tensor

#: Radius of the head over that of the hidden layers, in the authors' models with tied heads.
HEAD_RATIO = 60.0
#: Radius of an embedding over that of the hidden layers, in their model with a head of its own.
EMBEDDING_RATIO = 1 / 3


class Scion(Rule):
    r"""A momentum's direction in a norm that its layer has; the size of the gradient drops out.

    .. math::
        m_t &= (1-\alpha) m_{t-1} + \alpha g_t \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1} - \eta\rho\,u_t, \quad u_t =
        \begin{cases}
            \sqrt{\text{rows}/\text{columns}}\;\operatorname{NS}_5(m_t) & \text{hidden matrices} \\
            60 \operatorname{sign}(m_t) / \text{columns} & \text{the head, tied or not} \\
            \operatorname{sign}(m_t) / 3 & \text{embeddings} \\
            m_t / \operatorname{RMS}(m_t) & \text{vectors}
        \end{cases}

    :math:`\operatorname{NS}_5` is Muon's. :math:`\rho` = ``radius``; 50, and 60 times that for head
    and embedding in one, is what the authors take for language models. Where they have an embedding
    apart, its radius is a third of the hidden layers' and not divided: its input is one-hot. (The
    head there has 10/3 times the hidden radius; here 60 always.) Their constrained variant is
    :math:`\lambda = 1`, which keeps every weight within its radius, their unconstrained one
    :math:`\lambda = 0`; a model's norms and biases are unconstrained here, since they do not decay.
    ``alpha`` is one minus the usual momentum. For kernels of convolutions the authors divide by the
    kernel's size once more.
    """

    scope = Scope.MATRIX
    by_layout = True
    slots = (Slot("momentum_buffer"), Slot("outer_momentum_buffer"))
    defaults = {"lr": 2.0**-12, "alpha": 0.1, "radius": 50.0, "weight_decay": 1.0}
    ranges = {"alpha": Interval(0.0, 1.0, open_low=True), "radius": POSITIVE}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        hidden, outer = cls.slots
        return (outer if h.role in ("embedding", "head") else hidden,)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "weight": h.alpha,
            "step_size": h.lr * h.radius,
            "decay": decoupled_decay(h),
            "head": HEAD_RATIO * (h.role == "head"),
            "embedding": EMBEDDING_RATIO * (h.role == "embedding"),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        if s.outer_momentum_buffer is not None:
            m = ema(s.outer_momentum_buffer, g, c.weight)
            new = {"outer_momentum_buffer": m}
            direction = sign(m) * (c.head / p.shape[-1] + c.embedding)
        else:
            m = ema(s.momentum_buffer, g, c.weight)
            new = {"momentum_buffer": m}
            if p.ndim < 2:
                direction = m / ((m * m).mean().sqrt() + 1e-8)
            else:
                direction = orthogonalise(m) * (p.shape[0] / p.shape[1]) ** 0.5
        return p * c.decay - direction * c.step_size, new
