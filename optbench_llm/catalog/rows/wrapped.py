"""Rows that are wrappers around other rules."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, OptimizerInfo

ROWS = (
    OptimizerInfo(
        "lookahead", "Lookahead", "Zhang et al., Lookahead Optimizer: k steps forward, 1 step back",
        2019, ADAPTIVE, "lookahead:LookaheadAdam", url="https://arxiv.org/abs/1907.08610",
        category_is_ours=True,
        notes="Around Adam, the paper's base for language models; lookahead+NAME names any other.",
    ),
    OptimizerInfo(
        "ranger", "Ranger", "Wright, Ranger: RAdam + Lookahead + gradient centralization", 2019,
        ADAPTIVE, "ranger:Ranger", url="https://github.com/lessw2020/Ranger-Deep-Learning-Optimizer",
        category_is_ours=True,
    ),
)  # fmt: skip
