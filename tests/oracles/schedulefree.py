"""Schedule-free methods in the paper's three sequences: z (base), x (average), y (gradient)."""

from __future__ import annotations

import math

import numpy as np

from oracles.step import Betas, Path, Steps


class _Average:
    """The weights c_t: each step counts by t^r times the largest lr so far to a power."""

    def __init__(self, warmup_steps: int, r: float, weight_lr_power: float) -> None:
        self.warmup_steps, self.r, self.power = warmup_steps, r, weight_lr_power
        self.lr_max = self.total = 0.0

    def step(self, t: int, lr: float) -> tuple[float, float]:
        """The step's warmed-up lr and its weight in the average."""
        if t < self.warmup_steps:
            lr = lr * t / self.warmup_steps
        self.lr_max = max(self.lr_max, lr)
        weight = t**self.r * self.lr_max**self.power
        self.total += weight
        return lr, weight / self.total if self.total else 0.0


def adamw_schedulefree(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
    at: str = "y",
) -> Path:
    """Defazio et al. 2024 (2405.15682), algorithm 1; yields y, or x where ``at`` says so."""
    beta1, beta2 = betas
    average = _Average(warmup_steps, r, weight_lr_power)
    x = y = z = theta
    v = np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        lr, c = average.step(t, step.lr)
        v = beta2 * v + (1 - beta2) * step.g**2
        direction = step.g / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y
        z = z - lr * direction
        x = (1 - c) * x + c * z
        y = (1 - beta1) * z + beta1 * x
        yield y if at == "y" else x


def sgd_schedulefree(
    theta: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
    at: str = "y",
) -> Path:
    """Defazio et al. 2024 (2405.15682), equations 3 to 5; yields y, or x where ``at`` says so."""
    average = _Average(warmup_steps, r, weight_lr_power)
    x = y = z = theta
    for t, step in enumerate(steps, 1):
        lr, c = average.step(t, step.lr)
        z = z - lr * (step.g + weight_decay * y)
        x = (1 - c) * x + c * z
        y = (1 - momentum) * z + momentum * x
        yield y if at == "y" else x


def radam_schedulefree(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    r: float,
    weight_lr_power: float,
    silent_sgd_phase: bool,
    at: str = "y",
) -> Path:
    """The same with RAdam's step sizes (1908.03265, algorithm 2); silent ones have an lr of 0."""
    beta1, beta2 = betas
    rho_inf = 2 / (1 - beta2) - 1
    average = _Average(0, r, weight_lr_power)
    x = y = z = theta
    v = np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        v = beta2 * v + (1 - beta2) * step.g**2
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 4:
            top = (rho - 4) * (rho - 2) * rho_inf
            rate = step.lr * math.sqrt(top / ((rho_inf - 4) * (rho_inf - 2) * rho))
            direction = step.g / (np.sqrt(v / (1 - beta2**t)) + eps)
        else:
            rate = 0.0 if silent_sgd_phase else step.lr
            direction = step.g
        lr, c = average.step(t, rate)
        z = z - lr * (direction + weight_decay * y)
        x = (1 - c) * x + c * z
        y = (1 - beta1) * z + beta1 * x
        yield y if at == "y" else x
