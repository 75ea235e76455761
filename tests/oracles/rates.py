"""Rates for each element: Rprop, QHAdam, AdaMod, DiffGrad, MADGRAD."""

from __future__ import annotations

import math

import numpy as np

from oracles.step import Betas, Path, Steps


def rprop(
    theta: np.ndarray,
    steps: Steps,
    *,
    etas: Betas,
    step_sizes: Betas,
    weight_decay: float,
) -> Path:
    """Riedmiller & Braun 1993 without weight backtracking, as torch documents it.

    Element by element; of the learning rates only the first counts.
    """
    shape = theta.shape
    x = theta.flatten()
    size = [steps[0].lr] * x.size
    previous = [0.0] * x.size
    for step in steps:
        gradients = step.g.flatten()
        for i in range(x.size):
            g = gradients[i] + weight_decay * x[i]
            if previous[i] * g > 0:
                size[i] *= etas[1]
            elif previous[i] * g < 0:
                size[i] *= etas[0]
                g = 0.0
            size[i] = min(max(size[i], step_sizes[0]), step_sizes[1])
            x[i] -= math.copysign(size[i], g) if g else 0.0
            previous[i] = g
        yield x.reshape(shape).copy()


def qhadam(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    nus: Betas,
    eps: float,
    weight_decay: float,
) -> Path:
    """Ma & Yarats 2019 (1810.06801), QHAdam; weight decay as a term of the gradient."""
    (beta1, beta2), (nu1, nu2) = betas, nus
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        above = (1 - nu1) * g + nu1 * m_hat
        theta = theta - step.lr * above / (np.sqrt((1 - nu2) * g**2 + nu2 * v_hat) + eps)
        yield theta


def adamod(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    beta3: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """Ding et al. 2019 (1910.12249), both corrections inside the rate as in the authors' code."""
    beta1, beta2 = betas
    m, v, average = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        corrected = step.lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        rate = corrected / (np.sqrt(v) + eps)
        average = beta3 * average + (1 - beta3) * rate
        theta = theta - step.lr * weight_decay * theta - np.minimum(rate, average) * m
        yield theta


def diffgrad(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Dubey et al. 2019 (1909.11015); eps beside the uncorrected root."""
    beta1, beta2 = betas
    m, v, previous = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        friction = 1 / (1 + np.exp(-np.abs(previous - g)))
        rate = step.lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        theta = theta - rate * friction * m / (np.sqrt(v) + eps)
        previous = g
        yield theta


def madgrad(
    theta: np.ndarray, steps: Steps, *, momentum: float, eps: float, weight_decay: float
) -> Path:
    """Defazio & Jelassi 2021 (2101.11075), algorithm 1, eps added to the lr as in their code."""
    start, s, v = theta, np.zeros_like(theta), np.zeros_like(theta)
    for k, step in enumerate(steps):
        g = step.g + weight_decay * theta
        weight = (step.lr + eps) * math.sqrt(k + 1)
        s = s + weight * g
        v = v + weight * g**2
        z = start - s / (np.cbrt(v) + eps)
        theta = momentum * theta + (1 - momentum) * z
        yield theta
