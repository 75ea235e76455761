"""Rules that see a whole tensor or the whole model."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, ESTIMATED, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "swats", "SWATS", "Keskar & Socher, Improving Generalization Performance by Switching from"
        " Adam to SGD", 2017, ADAPTIVE, "swats:Swats", url="https://arxiv.org/abs/1712.07628",
        category_is_ours=True,
        notes="At the paper's tolerance noisy gradients may never let it switch; 1e-5 is usual.",
    ),
    OptimizerInfo(
        "apollo", "Apollo", "Ma, Apollo: An Adaptive Parameter-wise Diagonal Quasi-Newton Method",
        2020, ESTIMATED, "apollo:Apollo", url="https://arxiv.org/abs/2009.13586",
        category_is_ours=True, aliases=("apollo-quasi-newton", "apollo-dqn"),
        notes="Not the low-rank APOLLO of 2024. Needs a warm-up of the lr: 100 steps or more.",
    ),
    OptimizerInfo(
        "prodigy", "Prodigy", "Mishchenko & Defazio, Prodigy: An Expeditiously Adaptive"
        " Parameter-Free Learner", 2023, ESTIMATED, "prodigy:Prodigy",
        url="https://arxiv.org/abs/2306.06101", category_is_ours=True, finds_step_size=True,
        notes="Estimates its step size: leave lr at 1 and tune d_coef.",
    ),
    OptimizerInfo(
        "came", "CAME", "Luo et al., CAME: Confidence-guided Adaptive Memory Efficient"
        " Optimization", 2023, ESTIMATED, "came:Came", url="https://arxiv.org/abs/2307.02047",
        category_is_ours=True,
        notes="Corrects no bias: first steps are about 11 times lr long, so warm the lr up.",
    ),
)  # fmt: skip
