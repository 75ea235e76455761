"""Second moments of other kinds: AdaGrad, AdaDelta, RMSprop, RAdam, AdaBelief, AdaBound, Yogi."""

from __future__ import annotations

import math

import numpy as np

from oracles.step import Betas, Path, Steps


def adagrad(
    theta: np.ndarray,
    steps: Steps,
    *,
    lr_decay: float,
    initial_accumulator_value: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """Duchi et al. 2011, the diagonal version, with torch's lr_decay and place of eps."""
    total = np.full_like(theta, initial_accumulator_value)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        total = total + g**2
        lr = step.lr / (1 + (t - 1) * lr_decay)
        theta = theta - lr * g / (np.sqrt(total) + eps)
        yield theta


def adadelta(
    theta: np.ndarray, steps: Steps, *, rho: float, eps: float, weight_decay: float
) -> Path:
    """Zeiler 2012 (1212.5701), algorithm 1, times a learning rate."""
    g_sq, step_sq = np.zeros_like(theta), np.zeros_like(theta)
    for step in steps:
        g = step.g + weight_decay * theta
        g_sq = rho * g_sq + (1 - rho) * g**2
        delta = -np.sqrt(step_sq + eps) / np.sqrt(g_sq + eps) * g
        step_sq = rho * step_sq + (1 - rho) * delta**2
        theta = theta + step.lr * delta
        yield theta


def rmsprop(
    theta: np.ndarray,
    steps: Steps,
    *,
    alpha: float,
    eps: float,
    momentum: float,
    centered: bool,
    weight_decay: float,
) -> Path:
    """Lecture 6.5, in the form that torch.optim.RMSprop documents."""
    square, mean, buffer = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for step in steps:
        g = step.g + weight_decay * theta
        square = alpha * square + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        variance = square - mean**2 if centered else square
        buffer = momentum * buffer + g / (np.sqrt(variance) + eps)
        theta = theta - step.lr * buffer
        yield theta


def _rectifier(beta2: float, t: int) -> float | None:
    """RAdam's r_t (1908.03265, algorithm 2), None up to rho_t = 5 as in the authors' code."""
    rho_inf = 2 / (1 - beta2) - 1
    rho_t = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho_t <= 5:
        return None
    numerator = (rho_t - 4) * (rho_t - 2) * rho_inf
    denominator = (rho_inf - 4) * (rho_inf - 2) * rho_t
    return math.sqrt(numerator / denominator)


def radam(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Liu et al. 2020 (1908.03265), algorithm 2, with torch's coupled weight decay and eps."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        r = _rectifier(beta2, t)
        if r is None:
            theta = theta - step.lr * m_hat
        else:
            adaptive = np.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
            theta = theta - step.lr * r * m_hat * adaptive
        yield theta


def adabelief(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float, rectify: bool
) -> Path:
    """Zhuang et al. 2020 (2010.07468), algorithm 2; rectified as in the authors' package 0.2."""
    beta1, beta2 = betas
    m, s = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        theta = theta * (1 - step.lr * weight_decay)
        m = beta1 * m + (1 - beta1) * step.g
        s = beta2 * s + (1 - beta2) * (step.g - m) ** 2 + eps
        m_hat = m / (1 - beta1**t)
        r = _rectifier(beta2, t) if rectify else None
        if not rectify:
            theta = theta - step.lr * m_hat / (np.sqrt(s / (1 - beta2**t)) + eps)
        elif r is None:
            theta = theta - step.lr * m_hat
        else:
            theta = theta - step.lr * r * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(s) + eps)
        yield theta


def adabound(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    final_lr: float,
    gamma: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """Luo et al. 2019 (1902.09843), algorithm 2, with the bounds of the authors' code."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        final = final_lr * step.lr / steps[0].lr
        lower = final * (1 - 1 / (gamma * t + 1))
        upper = final * (1 + 1 / (gamma * t))
        rate = step.lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) / (np.sqrt(v) + eps)
        theta = theta - np.minimum(np.maximum(rate, lower), upper) * m
        yield theta


def yogi(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    initial_accumulator_value: float,
    weight_decay: float,
) -> Path:
    """Zaheer et al. 2018, algorithm 2, with Adam's bias corrections."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.full_like(theta, initial_accumulator_value)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * np.sign(v - g**2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - step.lr * m_hat / (np.sqrt(v_hat) + eps)
        yield theta
