"""Float64 references and proofs: rules that see a whole tensor or the whole model."""

from __future__ import annotations

import math

import numpy as np

from oracles.proof import Proof
from oracles.step import Betas, Path, Steps

MODEL_WIDE = "the rule sees the whole model, whichever tensors it is cut into"


def apollo(
    theta: np.ndarray,
    steps: Steps,
    *,
    beta: float,
    eps: float,
    weight_decay: float,
    decouple: bool,
) -> Path:
    """Ma 2020 (2009.13586), algorithm 1, with sigma 0.01 and eps / sigma as in the authors' code.

    The decoupled decay is part of the direction, as there.
    """
    sigma = 0.01
    m, b, d = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g if decouple else step.g + weight_decay * theta
        last = m
        m = (beta * (1 - beta ** (t - 1)) * m + (1 - beta) * g) / (1 - beta**t)
        norm4 = np.sum(d**4) ** 0.25
        a = (np.sum(d * (m - last)) + np.sum(d * b * d)) / (norm4 + eps / sigma) ** 4
        b = b - a * d**2
        d = m / np.maximum(np.abs(b), sigma)
        if decouple:
            d = d + weight_decay * theta
        theta = theta - step.lr * d
        yield theta


def came(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: tuple[float, float],
    clip_threshold: float,
    weight_decay: float,
) -> Path:
    """Luo et al. 2023 (2307.02047), algorithm 2; vectors and decay as in the authors' code."""
    beta1, beta2, beta3 = betas
    factored = theta.ndim >= 2
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    r = c = res_r = res_c = 0.0

    def rank_one(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        outer = row[..., :, None] * column[..., None, :]
        return outer / row.mean(axis=-1)[..., None, None]

    for step in steps:
        square = step.g**2 + eps[0]
        if factored:
            r = beta2 * r + (1 - beta2) * square.mean(axis=-1)
            c = beta2 * c + (1 - beta2) * square.mean(axis=-2)
            v = rank_one(r, c)
        else:
            v = beta2 * v + (1 - beta2) * square
        u = step.g / np.sqrt(v)
        u = u / max(1.0, math.sqrt(float(np.mean(u**2))) / clip_threshold)
        m = beta1 * m + (1 - beta1) * u
        update = m
        if factored:
            instability = (u - m) ** 2 + eps[1]
            res_r = beta3 * res_r + (1 - beta3) * instability.mean(axis=-1)
            res_c = beta3 * res_c + (1 - beta3) * instability.mean(axis=-2)
            update = m / np.sqrt(rank_one(res_r, res_c))
        theta = theta - step.lr * weight_decay * theta - step.lr * update
        yield theta


def swats(
    start: list[np.ndarray],
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    tolerance: float,
    weight_decay: float,
) -> Path:
    """Keskar & Socher 2017 (1712.07628), algorithm 1 over the whole model.

    Beyond the paper: a negative rate does not switch, and SGD's rate follows the schedule on.
    """
    beta1, beta2 = betas
    theta = list(start)
    m = [np.zeros_like(p) for p in theta]
    a = [np.zeros_like(p) for p in theta]
    v = [np.zeros_like(p) for p in theta]
    average, rate, lr_at_switch = 0.0, None, 0.0
    for k, step in enumerate(steps, 1):
        pp = pg = 0.0
        switched = rate is not None
        for i, g in enumerate(step.g):
            if g is None:
                continue
            g = g + weight_decay * theta[i]
            if switched:
                v[i] = beta1 * v[i] + g
                scheduled = rate * step.lr / lr_at_switch
                theta[i] = theta[i] - (1 - beta1) * scheduled * v[i]
                continue
            m[i] = beta1 * m[i] + (1 - beta1) * g
            a[i] = beta2 * a[i] + (1 - beta2) * g**2
            size = step.lr * math.sqrt(1 - beta2**k) / (1 - beta1**k)
            p = -size * m[i] / (np.sqrt(a[i]) + eps)
            theta[i] = theta[i] + p
            pp, pg = pp + np.sum(p * p), pg + np.sum(p * g)
        if not switched and pg != 0:
            gamma = pp / -pg
            average = beta2 * average + (1 - beta2) * gamma
            corrected = average / (1 - beta2**k)
            if k > 1 and abs(corrected - gamma) < tolerance and corrected > 0:
                rate, lr_at_switch = corrected, step.lr
        yield list(theta)


def prodigy(
    start: list[np.ndarray],
    steps: Steps,
    *,
    betas: Betas,
    beta3: float | None,
    eps: float,
    weight_decay: float,
    decouple: bool,
    use_bias_correction: bool,
    safeguard_warmup: bool,
    d0: float,
    d_coef: float,
    growth_rate: float | None,
) -> Path:
    """Mishchenko & Defazio 2023 (2306.06101), algorithm 4; options as in the authors' code."""
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    theta = list(start)
    m = [np.zeros_like(p) for p in theta]
    v = [np.zeros_like(p) for p in theta]
    s = [np.zeros_like(p) for p in theta]
    d, d_max, r = d0, d0, 0.0
    for k, step in enumerate(steps, 1):
        lr = step.lr
        if use_bias_correction:
            lr = lr * math.sqrt(1 - beta2**k) / (1 - beta1**k)
        r, s_l1 = beta3 * r, 0.0
        for i, g in enumerate(step.g):
            if g is None:
                continue
            if not decouple:
                g = g + weight_decay * theta[i]
            m[i] = beta1 * m[i] + (1 - beta1) * d * g
            v[i] = beta2 * v[i] + (1 - beta2) * d**2 * g**2
            r += lr * d**2 * np.sum(g * (start[i] - theta[i]))
            s[i] = beta3 * s[i] + (d**2 if safeguard_warmup else lr * d**2) * g
            s_l1 += np.sum(np.abs(s[i]))
        d_hat = d_coef * r / s_l1
        d_max = max(d_max, d_hat)
        before = max(d, d_hat) if d == d0 else d
        old, d = d, d_max if growth_rate is None else min(d_max, before * growth_rate)
        for i, g in enumerate(step.g):
            if g is None:
                continue
            if decouple:
                theta[i] = theta[i] - lr * old * weight_decay * theta[i]
            theta[i] = theta[i] - lr * old * m[i] / (np.sqrt(v[i]) + d * eps)
        yield list(theta)


PROOFS: dict[str, Proof] = {
    "apollo": Proof(
        apollo,
        [
            {"lr": 0.01, "beta": 0.3, "eps": 0.002, "weight_decay": 0.5, "decouple": False},
            {"lr": 0.02, "beta": 0.1, "eps": 0.02, "weight_decay": 2.0, "decouple": True},
        ],
        "curvatures below 0.01 count as 0.01",
    ),
    "came": Proof(
        came,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9, 0.95),
                "eps": (0.001, 0.01),
                "clip_threshold": 0.7,
                "weight_decay": 0.2,
            },
            {
                "lr": 0.02,
                "betas": (0.6, 0.95, 0.8),
                "eps": (0.01, 0.1),
                "clip_threshold": 2.0,
                "weight_decay": 0.1,
            },
        ],
        {"eps": (0.0, 0.01)},
    ),
    "prodigy": Proof(
        prodigy,
        [
            {
                "lr": 1.5,
                "betas": (0.8, 0.95),
                "beta3": 0.9,
                "eps": 0.01,
                "weight_decay": 0.2,
                "decouple": True,
                "use_bias_correction": True,
                "safeguard_warmup": False,
                "d0": 0.01,
                "d_coef": 1.2,
                "growth_rate": 1.3,
            },
            {
                "lr": 2.0,
                "betas": (0.9, 0.9),
                "beta3": None,
                "eps": 0.1,
                "weight_decay": 0.1,
                "decouple": False,
                "use_bias_correction": False,
                "safeguard_warmup": True,
                "d0": 0.02,
                "d_coef": 3.0,
                "growth_rate": None,
            },
        ],
        {"eps": 0.0},
        {"test_wider_scopes_do_not_commute_with_splitting": MODEL_WIDE},
        joint=True,
    ),
    "swats": Proof(
        swats,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "tolerance": 0.0008,
                "weight_decay": 0.1,
            },
            {
                "lr": 0.1,
                "betas": (0.9, 0.8),
                "eps": 0.02,
                "tolerance": 0.003,
                "weight_decay": 0.2,
            },
        ],
        "the rate of its SGD is inverse to the size of gradients, its steps are not",
        {"test_wider_scopes_do_not_commute_with_splitting": MODEL_WIDE},
        joint=True,
    ),
}
