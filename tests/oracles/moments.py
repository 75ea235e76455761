"""Adam and its nearest kin: AdamW, AdaMax, NAdam, Adan."""

from __future__ import annotations

import numpy as np

from oracles.step import Betas, Path, Steps


def adam(theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float) -> Path:
    """Kingma & Ba 2015 (1412.6980), algorithm 1; weight decay as a term of the gradient."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - step.lr * m_hat / (np.sqrt(v_hat) + eps)
        yield theta


def adamw(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Loshchilov & Hutter 2019 (1711.05101), algorithm 2, decay scaled by lr as in torch."""
    beta1, beta2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * step.g
        v = beta2 * v + (1 - beta2) * step.g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - step.lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta)
        yield theta


def adamax(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float
) -> Path:
    """Kingma & Ba 2015, algorithm 2, with torch's eps inside the maximum."""
    beta1, beta2 = betas
    m, u = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + eps)
        theta = theta - step.lr / (1 - beta1**t) * m / u
        yield theta


def nadam(
    theta: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    momentum_decay: float,
) -> Path:
    """Dozat 2016, algorithm 2, in the form that torch.optim.NAdam documents."""
    beta1, beta2 = betas

    def mu(t: int) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        g = step.g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        product = np.prod([mu(i) for i in range(1, t + 1)])
        next_product = product * mu(t + 1)
        m_hat = mu(t + 1) * m / (1 - next_product) + (1 - mu(t)) * g / (1 - product)
        v_hat = v / (1 - beta2**t)
        theta = theta - step.lr * m_hat / (np.sqrt(v_hat) + eps)
        yield theta


def adan(
    theta: np.ndarray, steps: Steps, *, betas: Betas, eps: float, weight_decay: float, no_prox: bool
) -> Path:
    """Xie et al. 2022 (2208.06677), algorithm 1, with the bias corrections of the authors' code."""
    # The paper's betas are the weights of the new term, the code's those of the old one.
    a1, a2, a3 = (1 - beta for beta in betas)
    m, v, n = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    previous = None
    for t, step in enumerate(steps, 1):
        g = step.g
        difference = np.zeros_like(g) if previous is None else g - previous
        m = (1 - a1) * m + a1 * g
        v = (1 - a2) * v + a2 * difference
        n = (1 - a3) * n + a3 * (g + (1 - a2) * difference) ** 2
        m_hat, v_hat, n_hat = (x / (1 - b**t) for x, b in zip((m, v, n), betas, strict=True))
        u = step.lr / (np.sqrt(n_hat) + eps) * (m_hat + (1 - a2) * v_hat)
        if no_prox:
            theta = (1 - step.lr * weight_decay) * theta - u
        else:
            theta = (theta - u) / (1 + step.lr * weight_decay)
        previous = g
        yield theta
