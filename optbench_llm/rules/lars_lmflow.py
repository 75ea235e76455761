"""LARS as LMFlow ran it for the published table: without weight decay it is plain SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.lars import Lars
from optbench_llm.rules.rule import Update

if TYPE_CHECKING:
    from torch import Tensor


class LarsLMFlow(Lars):
    r"""LARS that scales only what decays, with the lr outside the momentum.

    .. math::
        r_t &= \tau\,\lVert\theta_{t-1}\rVert /
            (\lVert g_t \rVert + \lambda\lVert\theta_{t-1}\rVert + \epsilon) \\
        d_t &= r_t\,(g_t + \lambda\theta_{t-1}) \text{ if } \lambda > 0, \text{ else } g_t \\
        b_t &= \mu b_{t-1} + d_t \\
        \theta_t &= \theta_{t-1} - \eta\,b_t

    What LMFlow's ``LARS`` did when its figures were published (commit 92adfcdd). A tensor whose
    norm or whose gradient's norm is 0 is neither scaled nor decayed. The published run had neither
    weight decay nor momentum.
    """

    defaults = {**Lars.defaults, "lr": 1e-2, "momentum": 0.0, "trust_coefficient": 1e-2}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        scaled = float(h.weight_decay > 0)
        return {**Lars.scalars(h, t, carry), "scaled": scaled, "unscaled": 1 - scaled}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        norm, gradient_norm = sums.parameter_sq.sqrt(), sums.gradient_sq.sqrt()
        layer_lr = norm * c.trust / (gradient_norm + norm * c.weight_decay + c.eps)
        ratio = layer_lr * c.scaled + c.unscaled
        applies = (norm > 0) & (gradient_norm > 0)
        step = ((g + p * c.weight_decay) * ratio).where(applies, g)
        if s.momentum_buffer is None:
            return p - step * c.lr, {}
        buffer = s.momentum_buffer * c.momentum + step
        return p - buffer * c.lr, {"momentum_buffer": buffer}
