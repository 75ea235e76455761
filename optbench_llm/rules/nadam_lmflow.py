"""NAdam as LMFlow ran it for the published table: Adam, its biases corrected twice."""

from __future__ import annotations

from typing import Any

from optbench_llm.rules.adam import Adam
from optbench_llm.rules.hyperparameters import NON_NEGATIVE
from optbench_llm.rules.rule import bias_corrections


class NAdamLMFlow(Adam):
    r"""Adam's direction, :math:`1 + \psi` times, with a second pair of bias corrections.

    .. math::
        \hat m_t &= \frac{m_t}{1 - \beta_1^t}, \quad \hat v_t = \frac{v_t}{1 - \beta_2^t} \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,
            \frac{(1 + \psi)\,\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    with Adam's moments of :math:`g_t + \lambda\theta_{t-1}` and :math:`\psi` = ``momentum_decay``.
    What LMFlow's ``NAdam`` did when its figures were published (commit 92adfcdd). It has no look
    ahead: its "previous" momentum takes in the gradient before it is used.
    """

    defaults = {**Adam.defaults, "lr": 2e-3, "momentum_decay": 4e-3}
    ranges = {"momentum_decay": NON_NEGATIVE}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        ours = Adam.scalars(h, t, carry)
        once = bias_corrections(h, t)
        again = once["correction1"] / once["correction2"] * (1 + h.momentum_decay)
        return {**ours, "step_size": ours["step_size"] * again}
