"""Rows that need more than one gradient a step; their names resolve, and say what is missing."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, MOMENTUM, OptimizerInfo

SECOND_GRADIENT = "needs a second gradient at each step, which this version does not run yet"
CURVATURE = "needs Hessian-vector products, which this version does not run yet"
WHOLE_DATA = "needs gradients over the whole training set, which this version does not run yet"

ROWS = (
    OptimizerInfo(
        "sam", "SAM", "Foret et al., Sharpness-Aware Minimization for Efficiently Improving"
        " Generalization", 2021, MOMENTUM,
        settings={"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "rho": 0.05},
        url="https://arxiv.org/abs/2010.01412", category_is_ours=True,
        notes="Around SGD with momentum, as in the paper; sam+NAME names any other base.",
        unavailable=f"{SECOND_GRADIENT}; use sgd",
    ),
    OptimizerInfo(
        "adahessian", "AdaHessian", "Yao et al., ADAHESSIAN: An Adaptive Second Order Optimizer for"
        " Machine Learning", 2021, ADAPTIVE,
        settings={
            "lr": 0.15, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 0.0,
            "hessian_power": 1.0,
        },
        url="https://arxiv.org/abs/2006.00719", category_is_ours=True,
        unavailable=f"{CURVATURE}; use sophia, whose curvature comes from gradients",
    ),
    OptimizerInfo(
        "svrg", "alpha-SVRG", "Yin et al., A Coefficient Makes SVRG Effective", 2025, ADAPTIVE,
        settings={
            "lr": 4e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01,
            "coefficient": 0.75,
        },
        url="https://arxiv.org/abs/2311.05589", category_is_ours=True,
        aliases=("a-svrg",),
        notes="Around AdamW, as in the paper; svrg+NAME names any other base.",
        unavailable=f"{WHOLE_DATA}; use adamw",
    ),
)  # fmt: skip
