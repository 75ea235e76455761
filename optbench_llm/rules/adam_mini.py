"""Adam-mini: a second moment for each block of weights (Zhang et al. 2024, arXiv:2406.16793)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.rule import Scope, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdamMini(AdamW):
    r"""AdamW whose second moment is a mean over blocks of elements; decoupled weight decay.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t^{(b)} &= \beta_2 v_{t-1}^{(b)} + (1-\beta_2) \operatorname{mean}_{i \in b} g_{t,i}^2 \\
        \theta_{t,i} &= (1-\eta\lambda)\,\theta_{t-1,i}
            - \eta\,\frac{m_{t,i} / (1-\beta_1^t)}{\sqrt{v_t^{(b)} / (1-\beta_2^t)} + \epsilon}

    The blocks are those of the authors' code (version 1.1.1): a head of queries or keys, a row of
    every other matrix (an output neuron, a token of the embedding), a norm's whole weight, each
    element of a bias. Their code finds heads by a parameter's name and takes the rest of a model
    that it does not know for one block a tensor; here roles decide, and queries or keys whose
    heads are unknown have a block a row.
    """

    scope = Scope.MATRIX
    by_layout = True
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        exp_avg, exp_avg_sq = cls.slots
        if h.role == "bias":
            return cls.slots
        by_head = h.heads > 0 and h.role in ("query", "key")
        rows = shape[0] if len(shape) > 1 else 1
        # A slot of one element and not a 0-dim one: torch 2.13 loses the sum that compiled float64
        # code writes to a 0-dim tensor.
        return exp_avg, replace(exp_avg_sq, shape=(h.heads if by_head else rows,))

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        blocks = s.exp_avg_sq.numel()
        square = (g * g).reshape(blocks, -1).mean(1).view(s.exp_avg_sq.shape)
        v = ema(s.exp_avg_sq, square, c.weight2)
        scale = c.step_size / (v.sqrt() * c.correction2 + c.eps)
        step = (m.reshape(blocks, -1) * scale.reshape(blocks, 1)).view(p.shape)
        return p * c.decay - step, {"exp_avg": m, "exp_avg_sq": v}
