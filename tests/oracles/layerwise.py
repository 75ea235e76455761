"""Norms of whole tensors: LARS, LAMB, NovoGrad."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def _norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(np.square(x))))


def lars(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    trust_coefficient: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """You et al. 2017 (1708.03888), algorithm 1, with apex's eps."""
    v = np.zeros_like(theta)
    for step in steps:
        weight_norm, gradient_norm = _norm(theta), _norm(step.g)
        local_lr = 1.0
        if weight_norm > 0 and gradient_norm > 0:
            denominator = gradient_norm + weight_decay * weight_norm + eps
            local_lr = trust_coefficient * weight_norm / denominator
        v = momentum * v + step.lr * local_lr * (step.g + weight_decay * theta)
        theta = theta - v
        yield theta


def lamb(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    debias: bool,
    clamp_value: float | None,
) -> Path:
    """You et al. 2019 (1904.00962), algorithm 2; phi is a minimum with clamp_value."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        m_hat = m / (1 - beta1**t) if debias else m
        v_hat = v / (1 - beta2**t) if debias else v
        update = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta
        phi = _norm(theta) if clamp_value is None else min(_norm(theta), clamp_value)
        ratio = phi / _norm(update) if phi > 0 and _norm(update) > 0 else 1.0
        theta = theta - step.lr * ratio * update
        yield theta


def novograd(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    grad_averaging: bool,
) -> Path:
    """Ginsburg et al. 2019 (1905.11286), algorithm 1."""
    beta1, beta2 = betas
    v, m = None, np.zeros_like(theta)
    for step in steps:
        square = _norm(step.g) ** 2
        v = square if v is None else beta2 * v + (1 - beta2) * square
        new = step.g / (np.sqrt(v) + eps) + weight_decay * theta
        m = beta1 * m + ((1 - beta1) * new if grad_averaging else new)
        theta = theta - step.lr * m
        yield theta
