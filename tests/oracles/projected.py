"""AdamP and SGDP: the direction is freed of its part along the weight (Heo et al. 2021)."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def _cosine(x: np.ndarray, y: np.ndarray, eps: float) -> float:
    lengths = max(float(np.linalg.norm(x)), eps) * max(float(np.linalg.norm(y)), eps)
    return abs(float(np.dot(x, y))) / lengths


def _project(
    theta: np.ndarray, g: np.ndarray, u: np.ndarray, delta: float, wd_ratio: float, eps: float
) -> tuple[np.ndarray, float]:
    """Paper's equations 11 and 12: channel by channel, else the whole layer, else not at all."""
    if theta.ndim < 2:
        return u, 1.0
    for vectors in (theta.shape[0], 1):
        ps, gs, us = (x.reshape(vectors, -1) for x in (theta, g, u))
        threshold = delta / np.sqrt(ps.shape[1])
        if all(_cosine(gs[i], ps[i], eps) < threshold for i in range(vectors)):
            free = np.empty_like(us)
            for i in range(vectors):
                unit = ps[i] / (np.linalg.norm(ps[i]) + eps)
                free[i] = us[i] - unit * np.dot(unit, us[i])
            return free.reshape(theta.shape), wd_ratio
    return u, 1.0


def adamp(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    nesterov: bool,
) -> Path:
    """Heo et al. 2021 (2006.08217), algorithm 2."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        numerator = beta1 * m + (1 - beta1) * step.g if nesterov else m
        u = numerator / (np.sqrt(v / (1 - beta2**t)) + eps)
        u, factor = _project(theta, step.g, u, delta, wd_ratio, eps)
        theta = theta * (1 - step.lr * weight_decay * factor)
        theta = theta - step.lr / (1 - beta1**t) * u
        yield theta


def sgdp(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    eps: float,
    delta: float,
    wd_ratio: float,
) -> Path:
    """Heo et al. 2021 (2006.08217), algorithm 1; the buffer starts at zero as in their code."""
    buffer = np.zeros_like(theta)
    for step in steps:
        buffer = momentum * buffer + (1 - dampening) * step.g
        u = step.g + momentum * buffer if nesterov else buffer
        u, factor = _project(theta, step.g, u, delta, wd_ratio, eps)
        theta = theta * (1 - step.lr * weight_decay * factor / (1 - momentum))
        theta = theta - step.lr * u
        yield theta
