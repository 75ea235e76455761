"""AggMo: the mean of several momenta (Lucas et al. 2019, arXiv:1804.00325)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FRACTION, Several
from optbench_llm.rules.rule import Rule, Slot, Update

if TYPE_CHECKING:
    from torch import Tensor


class AggMo(Rule):
    r"""Aggregated momentum: three velocities, each with its own damping; weight decay is coupled.

    .. math::
        g_t &\leftarrow g_t + \lambda\theta_{t-1} \\
        b^{(k)}_t &= \beta_k b^{(k)}_{t-1} + g_t, \quad k = 1, 2, 3 \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{3} \sum_k b^{(k)}_t

    A velocity whose beta is 0 from the start is the gradient itself and takes no memory. The
    authors' code lets equal betas share one velocity, which then counts each gradient several
    times; here every beta has its own.
    """

    slots = (Slot("velocity1"), Slot("velocity2"), Slot("velocity3"))
    defaults = {"lr": 0.01, "betas": (0.0, 0.9, 0.99), "weight_decay": 0.0}
    ranges = {"betas": Several(FRACTION, 3)}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return tuple(slot for slot, beta in zip(cls.slots, h.betas, strict=True) if beta)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2, beta3 = h.betas
        beta = {"beta1": beta1, "beta2": beta2, "beta3": beta3}
        return {**beta, "step_size": h.lr / 3, "l2": h.weight_decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        g = g + p * c.l2
        new = {}
        for slot, beta in zip(AggMo.slots, (c.beta1, c.beta2, c.beta3), strict=True):
            velocity = getattr(s, slot.name)
            if velocity is not None:
                new[slot.name] = velocity * beta + g
        total = sum(new.values(), g * (len(AggMo.slots) - len(new)))
        return p - total * c.step_size, new
