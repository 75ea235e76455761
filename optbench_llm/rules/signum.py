"""Signum: the sign of a momentum (Bernstein et al. 2018, arXiv:1802.04434)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema, sign

if TYPE_CHECKING:
    from torch import Tensor


class Signum(Rule):
    r"""Every element moves by lr, against the sign of its momentum.

    .. math::
        m_t &= \mu m_{t-1} + (1-\mu) g_t \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta \operatorname{sign}(m_t)

    Without momentum this is signSGD, which has no state. Weight decay is decoupled, as in the
    authors' code for the majority vote (arXiv:1810.05291) where it votes; where it does not, and by
    default in MXNet's Signum, it is an L2 term of the gradient.
    """

    slots = (Slot("momentum_buffer"),)
    defaults = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.0}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        return cls.slots if h.momentum else ()

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {"lr": h.lr, "weight": 1 - h.momentum, "decay": decoupled_decay(h)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        if s.momentum_buffer is None:
            return p * c.decay - sign(g) * c.lr, {}
        m = ema(s.momentum_buffer, g, c.weight)
        return p * c.decay - sign(m) * c.lr, {"momentum_buffer": m}
