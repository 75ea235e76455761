"""Momentum and more than momentum: QHM, AggMo, PID, AccSGD."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def qhm(
    theta: np.ndarray, steps: Steps, *, momentum: float, nu: float, weight_decay: float
) -> Path:
    """Ma & Yarats 2019 (1810.06801), equations 3 and 4; weight decay as a term of the gradient."""
    buffer = np.zeros_like(theta)
    for step in steps:
        g = step.g + weight_decay * theta
        buffer = momentum * buffer + (1 - momentum) * g
        theta = theta - step.lr * ((1 - nu) * g + nu * buffer)
        yield theta


def aggmo(theta: np.ndarray, steps: Steps, *, betas: Betas, weight_decay: float) -> Path:
    """Lucas et al. 2019 (1804.00325): as many velocities as betas."""
    velocities = [np.zeros_like(theta) for _ in betas]
    for step in steps:
        g = step.g + weight_decay * theta
        velocities = [beta * v - g for beta, v in zip(betas, velocities, strict=True)]
        theta = theta + step.lr / len(betas) * np.sum(velocities, axis=0)
        yield theta


def pid(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    integral: float,
    derivative: float,
    weight_decay: float,
) -> Path:
    """An et al. 2018, with the three gains of the authors' code; sums over the whole past."""
    seen: list[np.ndarray] = []
    for step in steps:
        seen.append(step.g + weight_decay * theta)
        t = len(seen)
        summed = sum(momentum ** (t - 1 - i) * seen[i] for i in range(t))
        change = np.zeros_like(theta)
        for i in range(1, t):
            change = change + (1 - momentum) * momentum ** (t - 1 - i) * (seen[i] - seen[i - 1])
        theta = theta - step.lr * (seen[-1] + integral * summed + derivative * change)
        yield theta


def accsgd(
    theta: np.ndarray,
    steps: Steps,
    *,
    kappa: float,
    xi: float,
    small_const: float,
    weight_decay: float,
) -> Path:
    """Kidambi et al. 2018 (1803.05591), ASGD; the paper's 0.7 is ``small_const``."""
    alpha = 1 - small_const**2 * xi / kappa
    average = theta
    for step in steps:
        g = step.g + weight_decay * theta
        average = alpha * average + (1 - alpha) * (theta - kappa * step.lr / small_const * g)
        short = theta - step.lr * g
        theta = (small_const * short + (1 - alpha) * average) / (small_const + 1 - alpha)
        yield theta
