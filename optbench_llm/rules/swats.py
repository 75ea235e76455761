"""SWATS: Adam that turns into SGD (Keskar & Socher 2017, arXiv:1712.07628)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import Rule, Scope, Slot, Update, bias_corrections

if TYPE_CHECKING:
    from torch import Tensor


class Swats(Rule):
    r"""Adam until the SGD step that it amounts to settles; from then on SGD with momentum.

    .. math::
        p_t &= -\eta\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,\frac{m_t}{\sqrt{v_t} + \epsilon},
            \quad \theta_t = \theta_{t-1} + p_t \\
        \gamma_t &= \frac{p_t^\top p_t}{-p_t^\top g_t}, \quad
            \lambda_t = \beta_2 \lambda_{t-1} + (1-\beta_2)\,\gamma_t \\
        \Lambda &= \frac{\lambda_t}{1-\beta_2^t} \quad\text{once } t > 1,\
            \Lambda > 0,\ |\Lambda - \gamma_t| < \delta; \quad\text{from then on} \\
        b_t &= \beta_1 b_{t-1} + g_t, \quad
            \theta_t = \theta_{t-1} - (1-\beta_1)\,\Lambda\,b_t

    with Adam's moments. As in the paper's algorithm 1 the products run over the whole model, which
    switches at once; PyTorch implementations compare tensor by tensor. The paper has :math:`\delta`
    (``tolerance``) equal to :math:`\epsilon`, so small that noisy gradients seldom meet it, and
    lets a negative :math:`\Lambda` through; others take 1e-5 or so and refuse it. After the switch
    a schedule goes on: :math:`\Lambda` is scaled by lr over its value at the switch. Weight decay
    is a term of the gradient.
    """

    scope = Scope.MODEL
    slots = (
        Slot("exp_avg"),
        Slot("exp_avg_sq", positive=True),
        Slot("phase", shape="scalar", positive=True),
    )
    defaults = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-9,
        "tolerance": 1e-9,
        "weight_decay": 0.0,
    }
    ranges = {"tolerance": NON_NEGATIVE}
    #: The average of gamma; SGD's rate over the lr at the switch, 0 before it.
    carry = {"average": 0.0, "relative_rate": 0.0}
    measures = ("step_sq", "descent")
    conclusions = ("average", "relative_rate")

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        corrections = bias_corrections(h, t)
        adam = float(carry["relative_rate"] == 0)
        weight1 = corrections["weight1"]
        return {
            **carry,
            "t": float(t),
            "adam": adam,
            "l2": h.weight_decay,
            "eps": h.eps,
            "forgotten": weight1,
            "taken": weight1 if adam else 1.0,
            "weight2": corrections["weight2"] * adam,
            "adam_size": h.lr * corrections["correction1"] / corrections["correction2"] * adam,
            "sgd_size": weight1 * carry["relative_rate"] * h.lr,
        }

    @staticmethod
    def measure(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        g = g + p * c.l2
        step, _, _ = Swats.step(g, s, c)
        return (step * step).sum(), (step * g).sum()

    @staticmethod
    def conclude(h: Any, c: Any, sums: Any) -> dict[str, float]:
        average, rate = c.average, c.relative_rate
        if c.adam and sums.descent:
            estimate = sums.step_sq / sums.descent
            average += (estimate - average) * c.weight2
            corrected = average / (1 - h.betas[1] ** c.t)
            settled = c.t > 1 and abs(corrected - estimate) < h.tolerance
            if settled and corrected > 0 and h.lr > 0:
                rate = corrected / h.lr
        return {"average": average, "relative_rate": rate}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        step, m, v = Swats.step(g + p * c.l2, s, c)
        phase = (s.phase + (1 - c.adam)).clamp(max=1.0)
        return p - step, {"exp_avg": m, "exp_avg_sq": v, "phase": phase}

    @staticmethod
    def step(g: Tensor, s: Any, c: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What to subtract, and the new moments; SGD's momentum starts from 0 where Adam's was."""
        old = s.exp_avg.where(s.phase == 1 - c.adam, 0.0)
        m = old + g * c.taken - old * c.forgotten
        v = s.exp_avg_sq + (g * g - s.exp_avg_sq) * c.weight2
        return m / (v.sqrt() + c.eps) * c.adam_size + m * c.sgd_size, m, v
