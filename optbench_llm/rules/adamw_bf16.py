"""AdamW for bf16 parameters: small steps survive (Zamirai et al. 2020, arXiv:2010.06192)."""

from __future__ import annotations

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.hyperparameters import OneOf


class AdamWBF16(AdamW):
    r"""AdamW whose new parameter is rounded to bf16 so that nothing is lost in the mean.

    .. math::
        \text{stochastic:}\quad \theta_t &= \operatorname{SR}_{bf16}(\theta_{t-1} - \Delta_t),
            \quad \mathbb{E}[\operatorname{SR}(x)] = x \\
        \text{kahan:}\quad y_t &= (\theta_{t-1} + r_{t-1}) - \Delta_t, \quad
            \theta_t = \operatorname{RN}_{bf16}(y_t), \quad r_t = y_t - \theta_t

    with :math:`\Delta_t` AdamW's step in fp32; ``kahan`` keeps the residual r, two bytes a
    parameter. Rounded to nearest, bf16 drops steps below 0.2 % of a parameter. For parameters of
    any other dtype this is AdamW.
    """

    defaults = {**AdamW.defaults, "rounding": "stochastic"}
    ranges = {"rounding": OneOf(("stochastic", "kahan", "nearest"))}
