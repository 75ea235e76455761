"""Methods that look at signs: Signum, the cautious ones, Grams."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def signum(theta: np.ndarray, steps: Steps, *, momentum: float, weight_decay: float) -> Path:
    """Bernstein et al. 2018 (1802.04434), with the decay of their majority vote (1810.05291)."""
    m = np.zeros_like(theta)
    for step in steps:
        m = momentum * m + (1 - momentum) * step.g
        theta = theta - step.lr * (np.sign(m) + weight_decay * theta)
        yield theta


def _masked(u: np.ndarray, g: np.ndarray) -> np.ndarray:
    """u where it has g's sign, over the share of such elements, which counts as 0.001 at least."""
    mask = np.where(u * g > 0, 1.0, 0.0)
    return u * mask / max(mask.mean(), 1e-3)


def cautious_adamw(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Liang et al. 2024 (2411.16085), with the scale of the authors' c_adamw.py."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        u = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        theta = theta - step.lr * weight_decay * theta - step.lr * _masked(u, step.g)
        yield theta


def cautious_lion(theta: np.ndarray, steps: Steps, *, betas: Betas, weight_decay: float) -> Path:
    """Lion (2302.06675, algorithm 2) with the mask of 2411.16085, scaled as above."""
    beta1, beta2 = betas
    m = np.zeros_like(theta)
    for step in steps:
        u = np.sign(beta1 * m + (1 - beta1) * step.g)
        theta = theta - step.lr * weight_decay * theta - step.lr * _masked(u, step.g)
        m = beta2 * m + (1 - beta2) * step.g
        yield theta


def grams(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Cao et al. 2024 (2412.17107), with AdamW's weight decay."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        u = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        theta = theta - step.lr * weight_decay * theta - step.lr * np.sign(step.g) * np.abs(u)
        yield theta
