"""Muon: momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.newton_schulz import orthogonalise
from optbench_llm.rules.rule import MATRIX_ROLES, Rule, Scope, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor


class AuxiliaryAdamW(AdamW):
    """AdamW with the defaults that Muon's authors give it."""

    defaults = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}


class Muon(Rule):
    r"""Momentum with its singular values pushed to 1, for hidden matrices; AdamW steps the rest.

    .. math::
        m_t &= \mu m_{t-1} + (1-\mu) g_t \\
        u_t &= \mu m_t + (1-\mu) g_t \quad\text{(without Nesterov } u_t = m_t\text{)} \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1}
            - \eta \sqrt{\max(1, \text{rows}/\text{columns})}\;\operatorname{NS}_5(u_t)

    :math:`\operatorname{NS}_5` is five Newton-Schulz steps, in bfloat16 as the authors run them (in
    fp32 on a CPU that emulates it, in float64 for float64 parameters). Queries, keys and values are
    matrices of their own, also where a model fuses them. torch.optim.Muon calls this scaling
    ``adjust_lr_fn="original"``; its ``match_rms_adamw`` has 0.2 times the root of the larger
    dimension in place of the ratio.
    """

    scope = Scope.MATRIX
    by_layout = True
    companion = AuxiliaryAdamW
    roles = MATRIX_ROLES
    slots = (Slot("momentum_buffer"),)
    defaults = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "lr": h.lr,
            "weight": 1 - h.momentum,
            "gradient_weight": 1 - h.momentum if h.nesterov else 0.0,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.momentum_buffer, g, c.weight)
        scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
        step = orthogonalise(ema(m, g, c.gradient_weight)) * (c.lr * scale)
        return p * c.decay - step, {"momentum_buffer": m}
