"""Float64 references and proofs: rows whose further gradients a program makes.

Here the gradients are given; that the programs make the right ones is shown in
``tests/test_programs_*.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.moments import adamw
from oracles.momentum import sgd
from oracles.proof import Proof
from oracles.step import Betas, Path, Steps


def sam_sgd(theta: np.ndarray, steps: Steps, *, rho: float, adaptive: bool, **base: Any) -> Path:
    """Its base, once the gradients are made."""
    return sgd(theta, steps, **base)


def svrg_adamw(
    theta: np.ndarray,
    steps: Steps,
    *,
    coefficient: float,
    coefficient_schedule: str,
    snapshot_period: int | None,
    snapshot_batches: int | None,
    **base: Any,
) -> Path:
    """Its base, once the gradients are made."""
    return adamw(theta, steps, **base)


def sophia_h(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    rho: float,
    eps: float,
    weight_decay: float,
    hvp: str,
) -> Path:
    """Liu et al. 2023 (2305.14342), algorithm 3; the estimate of algorithm 1 is given."""
    beta1, beta2 = betas
    m, h = np.zeros_like(theta), np.zeros_like(theta)
    for step in steps:
        if step.curvature_g is not None:
            h = beta2 * h + (1 - beta2) * step.curvature_g
        m = beta1 * m + (1 - beta1) * step.g
        theta = theta - step.lr * weight_decay * theta
        theta = theta - step.lr * np.clip(m / np.maximum(rho * h, eps), -1, 1)
        yield theta


def adahessian(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    hessian_power: float,
    spatial_average: bool,
    hvp: str,
) -> Path:
    """Yao et al. 2021 (2006.00719), algorithm 1; the product with the random vector is given."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    estimates = 0
    for t, step in enumerate(steps, 1):
        if step.curvature_g is not None:
            d = step.curvature_g
            if spatial_average and d.ndim == 2:
                d = np.stack([np.full_like(row, row.sum() / row.size) for row in d])
            elif spatial_average and d.ndim == 3:
                kernels = d.reshape(-1, d.shape[-1])
                d = np.stack([np.full_like(k, k.sum() / k.size) for k in kernels]).reshape(d.shape)
            v = beta2 * v + (1 - beta2) * d**2
            estimates += 1
        m = beta1 * m + (1 - beta1) * step.g
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2 ** max(estimates, 1))
        theta = theta - step.lr * weight_decay * theta
        theta = theta - step.lr * m_hat / (np.sqrt(v_hat) ** hessian_power + eps)
        yield theta


BY_ROWS = {
    "test_wider_scopes_do_not_commute_with_splitting": "it needs whole rows, not the whole tensor"
}
PROOFS: dict[str, Proof] = {
    "sam": Proof(
        sam_sgd,
        [
            {
                "lr": 0.05,
                "momentum": 0.7,
                "dampening": 0.3,
                "nesterov": False,
                "weight_decay": 0.1,
                "rho": 0.1,
                "adaptive": True,
            },
            {
                "lr": 0.05,
                "momentum": 0.8,
                "dampening": 0.0,
                "nesterov": True,
                "weight_decay": 0.1,
                "rho": 0.1,
                "adaptive": False,
            },
        ],
        "steps are proportional to the gradient",
        unfelt=("rho", "adaptive"),
    ),
    "svrg": Proof(
        svrg_adamw,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.1,
                "coefficient": 0.5,
                "coefficient_schedule": "constant",
                "snapshot_period": 7,
                "snapshot_batches": 3,
            }
        ],
        {"eps": 0.0},
        unfelt=("coefficient", "coefficient_schedule", "snapshot_period", "snapshot_batches"),
    ),
    "sophia-h": Proof(
        sophia_h,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "rho": 0.3,
                "eps": 0.001,
                "weight_decay": 0.3,
                "k": 4,
                "hvp": "autograd",
            }
        ],
        "its curvature is not that of the gradients",
        {"test_signs_do_not_matter": "curvature below 0 is clipped, above it is not"},
        unfelt=("hvp",),
    ),
    "adahessian": Proof(
        adahessian,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "eps": 0.1,
                "weight_decay": 0.1,
                "hessian_power": 0.6,
                "spatial_average": True,
                "k": 3,
                "hvp": "autograd",
            },
            {
                "lr": 0.02,
                "betas": (0.7, 0.95),
                "eps": 0.05,
                "weight_decay": 0.2,
                "hessian_power": 0.8,
                "spatial_average": False,
                "k": 1,
                "hvp": "finite-difference",
            },
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "eps": 0.1,
                "weight_decay": 0.1,
                "hessian_power": 1.0,
                "spatial_average": True,
                "k": 2,
                "hvp": "autograd",
            },
        ],
        "a power of the curvature other than 1 changes the scale of steps",
        BY_ROWS,
        unfelt=("hvp",),
    ),
}
