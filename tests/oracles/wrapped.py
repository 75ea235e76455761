"""Float64 references and proofs: rows that are wrappers around other rules."""

from __future__ import annotations

import math

import numpy as np

from oracles.proof import LR_0_MIDWAY, Proof
from oracles.step import Betas, Path, Steps


def lookahead_adam(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    lookahead_k: int,
    lookahead_alpha: float,
) -> Path:
    """Zhang et al. 2019 (1907.08610), algorithm 1, its inner optimizer Adam with L2 decay."""
    beta1, beta2 = betas
    slow = theta
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - step.lr * m_hat / (np.sqrt(v_hat) + eps)
        if t % lookahead_k == 0:
            theta = slow = slow + lookahead_alpha * (theta - slow)
        yield theta


def ranger(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    use_gc: bool,
    lookahead_k: int,
    lookahead_alpha: float,
) -> Path:
    """Wright's Ranger of 2020: Yong et al. (2004.01461), RAdam (1908.03265), Lookahead."""
    beta1, beta2 = betas
    slow = theta
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    rho_inf = 2 / (1 - beta2) - 1
    for t, step in enumerate(steps, 1):
        g = step.g
        if use_gc and g.ndim > 1:
            g = np.stack([channel - channel.mean() for channel in g])
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        direction = m / (1 - beta1**t)
        if rho > 5:
            r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
            direction = math.sqrt(r * (1 - beta2**t)) * direction / (np.sqrt(v) + eps)
        theta = theta - step.lr * weight_decay * theta - step.lr * direction
        if t % lookahead_k == 0:
            theta = slow = slow + lookahead_alpha * (theta - slow)
        yield theta


PULLS_BACK = {LR_0_MIDWAY: "every k steps it pulls back, whatever the lr"}
BY_ROWS = {
    "test_wider_scopes_do_not_commute_with_splitting": "it needs whole rows, not the whole tensor"
}
PROOFS: dict[str, Proof] = {
    "lookahead": Proof(
        lookahead_adam,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.1,
                "lookahead_k": 4,
                "lookahead_alpha": 0.3,
            },
            {
                "lr": 0.05,
                "betas": (0.7, 0.9),
                "eps": 0.001,
                "weight_decay": 0.2,
                "lookahead_k": 1,
                "lookahead_alpha": 0.8,
            },
        ],
        {"eps": 0.0, "weight_decay": 0.0},
        PULLS_BACK,
    ),
    "ranger": Proof(
        ranger,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.1,
                "use_gc": True,
                "lookahead_k": 4,
                "lookahead_alpha": 0.3,
            },
            {
                "lr": 0.02,
                "betas": (0.8, 0.6),
                "eps": 0.01,
                "weight_decay": 0.2,
                "use_gc": False,
                "lookahead_k": 3,
                "lookahead_alpha": 0.7,
            },
        ],
        "takes plain momentum steps before its rectification is defined",
        {**PULLS_BACK, **BY_ROWS},
    ),
}
