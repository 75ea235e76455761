"""Schedule-free RAdam (Defazio et al. 2024, arXiv:2405.15682; Liu et al. 2020, 1908.03265)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, NON_NEGATIVE, OPEN_FRACTION, REAL, Several
from optbench_llm.rules.radam import rectification
from optbench_llm.rules.rule import Rule, Update, ema
from optbench_llm.rules.schedulefree import AdamWScheduleFree, averaging

if TYPE_CHECKING:
    from torch import Tensor


class RAdamScheduleFree(Rule):
    r"""Schedule-free AdamW whose warm-up is RAdam's rectification :math:`r_t` of the lr.

    .. math::
        \eta_t &= r_t\,\eta, \quad u_t = g_t / \bigl(\sqrt{v_t/(1-\beta_2^t)} + \epsilon\bigr)
            + \lambda y_t & (\rho_t > 4) \\
        \eta_t &= 0 \text{ if ``silent\_sgd\_phase``, else } \eta, \quad u_t = g_t + \lambda y_t
            & (\rho_t \le 4)

    with the sequences z, x and y, the second moment and the weights :math:`c_t` of
    :class:`AdamWScheduleFree`. The threshold of 4 is that of RAdam's paper and of the authors'
    code; our RAdam has the 5 of RAdam's own code.
    """

    slots = AdamWScheduleFree.slots
    defaults = {
        "lr": 2.5e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "silent_sgd_phase": True,
    }
    # A negative power of the silent steps' lr of 0 has no value.
    ranges = {
        "betas": Several(OPEN_FRACTION, 2),
        "r": REAL,
        "weight_lr_power": NON_NEGATIVE,
        "silent_sgd_phase": FLAG,
    }
    carry = AdamWScheduleFree.carry

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        rectified = rectification(beta2, t, threshold=4)
        plain = float(rectified is None)
        lr = h.lr * (1.0 - h.silent_sgd_phase if rectified is None else rectified)
        return {
            **averaging(h, t, carry, beta1, lr),
            "weight2": 1 - beta2,
            "correction2": (1 - beta2**t) ** -0.5,
            "eps": h.eps,
            "weight_decay": h.weight_decay,
            "plain": plain,
            "adaptive": 1 - plain,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        rate = c.adaptive / (v.sqrt() * c.correction2 + c.eps) + c.plain
        u = g * rate + p * c.weight_decay
        y = ema(p, s.z, c.average) - u * c.step_y
        return y, {"z": s.z - u * c.step_z, "exp_avg_sq": v}

    @staticmethod
    def evaluation_point(p: Tensor, s: Any, h: Any) -> Tensor:
        return AdamWScheduleFree.evaluation_point(p, s, h)
