"""Rows that need more than one gradient a step."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, ESTIMATED, MOMENTUM, OptimizerInfo

ROWS = (
    OptimizerInfo(
        "sam", "SAM", "Foret et al., Sharpness-Aware Minimization for Efficiently Improving"
        " Generalization", 2021, MOMENTUM, "sam:SamSGD", url="https://arxiv.org/abs/2010.01412",
        category_is_ours=True,
        notes="Around SGD with momentum, as in the paper; sam+NAME names any other base.",
    ),
    OptimizerInfo(
        "sophia-h", "Sophia-H", "Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer",
        2023, ESTIMATED, "sophia:SophiaH", url="https://arxiv.org/abs/2305.14342",
        category_is_ours=True,
        notes="Its curvature is the Hessian's own diagonal; that of sophia comes from sampled"
        " labels and is never negative.",
    ),
    OptimizerInfo(
        "adahessian", "AdaHessian", "Yao et al., ADAHESSIAN: An Adaptive Second Order Optimizer for"
        " Machine Learning", 2021, ADAPTIVE, "adahessian:AdaHessian",
        url="https://arxiv.org/abs/2006.00719", category_is_ours=True,
        notes="The authors' lr, 0.15, is for images and overshoots on language models; the declared"
        " one is ours.",
    ),
    OptimizerInfo(
        "svrg", "alpha-SVRG", "Yin et al., A Coefficient Makes SVRG Effective", 2025, ADAPTIVE,
        "svrg:SvrgAdamW", url="https://arxiv.org/abs/2311.05589", category_is_ours=True,
        aliases=("a-svrg",),
        notes="Around AdamW, as in the paper; svrg+NAME names any other base.",
    ),
)  # fmt: skip
