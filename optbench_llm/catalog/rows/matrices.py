"""Rules that see whole matrices and know what they are."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, MOMENTUM, OptimizerInfo

ROWS = (
    OptimizerInfo(
        "muon", "Muon", "Jordan et al., Muon: An optimizer for hidden layers in neural networks",
        2024, MOMENTUM, "muon:Muon", url="https://kellerjordan.github.io/posts/muon/",
        category_is_ours=True,
    ),
    OptimizerInfo(
        "scion", "Scion",
        "Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs", 2025,
        MOMENTUM, "scion:Scion", url="https://arxiv.org/abs/2502.07529", category_is_ours=True,
    ),
    OptimizerInfo(
        "adam-mini", "Adam-mini", "Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More",
        2024, ADAPTIVE, "adam_mini:AdamMini", url="https://arxiv.org/abs/2406.16793",
        category_is_ours=True,
    ),
)  # fmt: skip
