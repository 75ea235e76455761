"""Adam with one thing changed: ADOPT, AdEMAMix, MARS, LaProp, StableAdamW."""

from __future__ import annotations

import math

import numpy as np

from oracles.step import Betas, Path, Steps


def adopt(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    decouple: bool,
) -> Path:
    """Taniguchi et al. 2024 (2411.02853), clipped ADOPT with clips of t^(1/4) from t = 0."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps):
        g = step.g if decouple else step.g + weight_decay * theta
        if t == 0:
            v = g**2
            yield theta
            continue
        if decouple:
            theta = theta - step.lr * weight_decay * theta
        u = np.clip(g / np.maximum(np.sqrt(v), eps), -(t**0.25), t**0.25)
        m = beta1 * m + (1 - beta1) * u
        theta = theta - step.lr * m
        v = beta2 * v + (1 - beta2) * g**2
        yield theta


def _scheduled_beta3(beta1: float, beta3: float, t: int, warmup: int | None) -> float:
    """The paper's f_beta3, capped at beta3."""
    if warmup is None:
        return beta3
    mu = t / warmup
    bottom = (1 - mu) * math.log(beta3) + mu * math.log(beta1)
    return min(math.exp(math.log(beta1) * math.log(beta3) / bottom), beta3) if mu < 1 else beta3


def ademamix(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    alpha: float,
    alpha_warmup: int | None,
    beta3_warmup: int | None,
    eps: float,
    weight_decay: float,
) -> Path:
    """Pagliardini et al. 2024 (2409.03137), with its two schedulers."""
    beta1, beta2, beta3 = betas
    m1, m2, nu = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        beta3_t = _scheduled_beta3(beta1, beta3, t, beta3_warmup)
        alpha_t = alpha if alpha_warmup is None else min(t * alpha / alpha_warmup, alpha)
        m1 = beta1 * m1 + (1 - beta1) * step.g
        m2 = beta3_t * m2 + (1 - beta3_t) * step.g
        nu = beta2 * nu + (1 - beta2) * step.g**2
        mixed = m1 / (1 - beta1**t) + alpha_t * m2
        direction = mixed / (np.sqrt(nu / (1 - beta2**t)) + eps)
        theta = theta - step.lr * (direction + weight_decay * theta)
        yield theta


def mars(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    gamma: float,
    eps: float,
    weight_decay: float,
) -> Path:
    """Yuan et al. 2024 (2411.10438), MARS-AdamW with the last step's gradient, first 0."""
    beta1, beta2 = betas
    m, v, last = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        corrected = step.g + gamma * beta1 / (1 - beta1) * (step.g - last)
        norm = math.sqrt((corrected**2).sum())
        if norm > 1:
            corrected = corrected / norm
        m = beta1 * m + (1 - beta1) * corrected
        v = beta2 * v + (1 - beta2) * corrected**2
        direction = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        theta = theta - step.lr * (direction + weight_decay * theta)
        last = step.g
        yield theta


def laprop(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Ziyin et al. 2020 (2002.04839): a mean of normalised gradients weighted by lr.

    The mean is taken literally, over all steps so far.
    """
    beta1, beta2 = betas
    v = np.zeros_like(theta)
    normalised, lrs = [], []
    for t, step in enumerate(steps, 1):
        v = beta2 * v + (1 - beta2) * step.g**2
        normalised.append(step.g / (np.sqrt(v / (1 - beta2**t)) + eps))
        lrs.append(step.lr)
        weights = [beta1 ** (t - i) * lr for i, lr in enumerate(lrs, 1)]
        total = sum(w * u for w, u in zip(weights, normalised, strict=True))
        theta = theta - step.lr * total / sum(weights)
        theta = theta - step.lr * weight_decay * theta
        yield theta


def stableadamw(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Wortsman et al. 2023 (2304.13013), algorithm 2, in its debiased betas."""
    beta1, beta2 = betas
    v, u = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        beta1_hat = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        beta2_hat = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        v = beta1_hat * v + (1 - beta1_hat) * step.g
        u = beta2_hat * u + (1 - beta2_hat) * step.g**2
        rms = math.sqrt((step.g**2 / np.maximum(u, eps**2)).mean())
        lr = step.lr / max(1.0, rms)
        theta = theta - lr * weight_decay * theta - lr * v / (np.sqrt(u) + eps)
        yield theta
