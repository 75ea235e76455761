"""SGD, Lion, Sophia: momentum with a fixed step, a sign, a clipped curvature."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def sgd(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> Path:
    """Heavy ball as torch.optim.SGD documents it: the buffer starts as the first gradient."""
    buffer = None
    for step in steps:
        g = step.g + weight_decay * theta
        if momentum == 0:
            direction = g
        else:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            direction = g + momentum * buffer if nesterov else buffer
        theta = theta - step.lr * direction
        yield theta


def lion(theta: np.ndarray, steps: Steps, *, betas: Betas, weight_decay: float) -> Path:
    """Chen et al. 2023 (2302.06675), algorithm 2 and program 1."""
    beta1, beta2 = betas
    m = np.zeros_like(theta)
    for step in steps:
        update = np.sign(beta1 * m + (1 - beta1) * step.g)
        m = beta2 * m + (1 - beta2) * step.g
        theta = theta - step.lr * (update + weight_decay * theta)
        yield theta


def sophia(
    theta: np.ndarray, steps: Steps, *, betas: Betas, rho: float, eps: float, weight_decay: float
) -> Path:
    """Liu et al. 2023 (2305.14342), algorithm 3, with algorithm 2's Gauss-Newton-Bartlett estimate.

    The denominator ``rho * h + eps`` is that of the authors' code; the paper has a maximum.
    """
    beta1, beta2 = betas
    m, h = np.zeros_like(theta), np.zeros_like(theta)
    for step in steps:
        if step.curvature_g is not None:
            estimate = step.samples * step.curvature_g**2
            h = beta2 * h + (1 - beta2) * estimate
        m = beta1 * m + (1 - beta1) * step.g
        theta = theta - step.lr * weight_decay * theta
        theta = theta - step.lr * np.clip(m / (rho * h + eps), -1, 1)
        yield theta
