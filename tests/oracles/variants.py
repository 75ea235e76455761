"""The proofs of the rows that depart from another row on purpose."""

from __future__ import annotations

import numpy as np

from oracles.proof import Proof
from oracles.step import Betas, Path, Steps


def nadam_lmflow(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    momentum_decay: float,
) -> Path:
    """LMFlow's NAdam.step at commit 92adfcdd: m and its "previous" value are the same number."""
    beta1, beta2 = betas
    m_prev, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, start=1):
        g = step.g + weight_decay * theta
        first, second = 1 - beta1**t, 1 - beta2**t
        m = beta1 * m_prev + (1 - beta1) * g
        m_prev = beta1 * m_prev + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        direction = m / first + momentum_decay * m_prev / first
        step_size = step.lr * np.sqrt(second) / first
        theta = theta - step_size * direction / (np.sqrt(v / second) + eps)
        yield theta


def sophia_lmflow(
    theta: np.ndarray, steps: Steps, *, beta1: float, rho: float, weight_decay: float
) -> Path:
    """LMFlow's SophiaG.step at commit 92adfcdd, with the Hessian that it never updates."""
    m, hessian = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, start=1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        m_hat = m / (1 - beta1**t)
        theta = theta - step.lr * m_hat / (np.sqrt(hessian) + rho)
        yield theta


def lars_lmflow(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    trust_coefficient: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """LMFlow's LARS.step at commit 92adfcdd, without dampening and Nesterov's momentum."""
    buffer = None
    for step in steps:
        d = step.g
        norm, gradient_norm = np.linalg.norm(theta), np.linalg.norm(step.g)
        if weight_decay != 0 and norm != 0 and gradient_norm != 0:
            lars_lr = trust_coefficient * norm / (gradient_norm + norm * weight_decay + eps)
            d = lars_lr * (step.g + weight_decay * theta)
        if momentum != 0:
            buffer = d if buffer is None else momentum * buffer + d
            d = buffer
        theta = theta - step.lr * d
        yield theta


PROOFS = {
    "nadam-lmflow": Proof(
        nadam_lmflow,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.1,
                "momentum_decay": 0.3,
            }
        ],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "sophia-lmflow": Proof(
        sophia_lmflow,
        [{"lr": 0.05, "beta1": 0.8, "rho": 0.6, "weight_decay": 0.3}],
        "its steps are as long as its gradients",
    ),
    "lars-lmflow": Proof(
        lars_lmflow,
        [
            {
                "lr": 0.5,
                "momentum": 0.8,
                "trust_coefficient": 0.05,
                "eps": 0.1,
                "weight_decay": 0.2,
            },
            {
                "lr": 0.1,
                "momentum": 0.6,
                "trust_coefficient": 0.05,
                "eps": 0.1,
                "weight_decay": 0.0,
            },
        ],
        "what it scales also decays, by a size of its own",
    ),
}
