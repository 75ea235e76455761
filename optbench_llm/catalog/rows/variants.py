"""Rows that depart from another row on purpose: what the published runs really computed."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, ESTIMATED, OptimizerInfo

LMFLOW = "https://github.com/OptimalScale/LMFlow"

ROWS = (
    OptimizerInfo(
        "nadam-lmflow", "NAdam with twofold corrections (LMFlow)", "LMFlow's NAdam of June 2024,"
        " after Dozat, Incorporating Nesterov Momentum into Adam", 2024,
        ADAPTIVE, "nadam_lmflow:NAdamLMFlow", url=LMFLOW, category_is_ours=True,
        published_name="NAdam", published_loss=2.5569, variant_of="nadam",
        notes="What the published NAdam row computed, for the reference track: Adam without a look"
        " ahead, its first steps shortened by a second pair of bias corrections.",
    ),
    OptimizerInfo(
        "sophia-lmflow", "Sophia without curvature (LMFlow)", "LMFlow's SophiaG of June 2024,"
        " after Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer", 2024,
        ESTIMATED, "sophia_lmflow:SophiaLMFlow", url=LMFLOW, category_is_ours=True,
        published_name="Sophia", published_loss=3.1517, variant_of="sophia",
        notes="What the published Sophia row computed, for the reference track: momentum with lr /"
        " rho, 25 times the lr. Its code also kept a Hessian of zeros, which is left out here.",
    ),
    OptimizerInfo(
        "lars-lmflow", "LARS that scales what decays (LMFlow)", "LMFlow's LARS of June 2024, after"
        " You et al., Large Batch Training of Convolutional Networks", 2024,
        ESTIMATED, "lars_lmflow:LarsLMFlow", url=LMFLOW, category_is_ours=True,
        published_name="LARS", published_loss=3.3329, variant_of="lars",
        notes="What the published LARS row computed, for the reference track: without weight decay"
        " nothing is scaled, and without momentum it is SGD.",
    ),
)  # fmt: skip
