"""Rules for parameters in 16 bits."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, OptimizerInfo

ROWS = (
    OptimizerInfo(
        "adamw-bf16", "AdamW for bf16 parameters", "Zamirai et al., Revisiting BFloat16 Training",
        2020, ADAPTIVE, "adamw_bf16:AdamWBF16", url="https://arxiv.org/abs/2010.06192",
        category_is_ours=True, aliases=("adamw-stochastic-rounding",),
        notes="rounding='kahan' in place of 'stochastic'; AdamW where parameters are not bf16.",
    ),
)  # fmt: skip
