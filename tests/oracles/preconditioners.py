"""Float64 references and proofs: rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

import numpy as np

from oracles.proof import MATRICES, Proof, Shape
from oracles.step import Betas, Path, Steps


def soap(
    p: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    precondition_frequency: int,
    max_precond_dim: int,
) -> Path:
    """Vyas et al. 2024, algorithms 3 and 4, with what the authors' code adds to them.

    The code's first step only makes the bases; it sorts eigenvectors by their estimated eigenvalues
    before QR, and the second moment along with them; it decays after the step.
    """
    beta1, beta2 = betas
    rows, columns = p.shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    q_left, q_right = np.eye(rows), np.eye(columns)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (lr, g, *_) in enumerate(steps):
        if t > 0:
            seen = q_left.T @ g @ q_right
            m_seen = q_left.T @ m @ q_right
            m_seen = beta1 * m_seen + (1 - beta1) * seen
            v = beta2 * v + (1 - beta2) * seen**2
            bias = np.sqrt(1 - beta2**t) / (1 - beta1**t)
            p = p - lr * bias * q_left @ (m_seen / (np.sqrt(v) + eps)) @ q_right.T
            p = p - lr * weight_decay * p
            m = q_left @ m_seen @ q_right.T
        left = beta2 * left + (1 - beta2) * g @ g.T
        right = beta2 * right + (1 - beta2) * g.T @ g
        if t == 0:
            if rows <= max_precond_dim:
                q_left = np.linalg.eigh(left)[1][:, ::-1]
            if columns <= max_precond_dim:
                q_right = np.linalg.eigh(right)[1][:, ::-1]
        elif t % precondition_frequency == 0:
            if rows <= max_precond_dim:
                order = np.argsort(-np.diag(q_left.T @ left @ q_left))
                v = v[order, :]
                q_left = np.linalg.qr(left @ q_left[:, order])[0]
            if columns <= max_precond_dim:
                order = np.argsort(-np.diag(q_right.T @ right @ q_right))
                v = v[:, order]
                q_right = np.linalg.qr(right @ q_right[:, order])[0]
        yield p


def shampoo(
    p: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    matrix_eps: float,
    weight_decay: float,
    precondition_frequency: int,
    max_precond_dim: int,
) -> Path:
    """Gupta et al. 2018, algorithm 1, in the form of Shi et al. 2023: averages, grafted on Adam."""
    beta1, beta2 = betas
    rows, columns = p.shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    left_root, right_root = np.eye(rows), np.eye(columns)
    m, v = np.zeros_like(p), np.zeros_like(p)
    sides = (rows <= max_precond_dim) + (columns <= max_precond_dim)
    for t, (lr, g, *_) in enumerate(steps, start=1):
        left = beta2 * left + (1 - beta2) * g @ g.T
        right = beta2 * right + (1 - beta2) * g.T @ g
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        if t % precondition_frequency == 0:
            bias = 1 - beta2**t
            if rows <= max_precond_dim:
                left_root = power(left / bias + matrix_eps * np.eye(rows), -0.5 / sides)
            if columns <= max_precond_dim:
                right_root = power(right / bias + matrix_eps * np.eye(columns), -0.5 / sides)
        direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        if sides and t >= precondition_frequency:
            preconditioned = left_root @ m @ right_root
            length = np.linalg.norm(direction)
            direction = preconditioned * length / np.linalg.norm(preconditioned)
        p = p - lr * (direction + weight_decay * p)
        yield p


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


#: With the longer side left out of the bases or one longer than the other: eigenvectors of a
#: single gradient are unique but for their signs, which do not matter.
NEARLY_SQUARE = (Shape((5, 6)), Shape((7, 6), transposed=True), Shape((9, 3)), Shape((4, 4)))

PROOFS: dict[str, Proof] = {
    "shampoo": Proof(
        shampoo,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "eps": 0.01,
                "matrix_eps": 0.01,
                "weight_decay": 0.2,
                "precondition_frequency": 3,
                "max_precond_dim": 20,
            },
            {
                "lr": 0.1,
                "betas": (0.7, 0.95),
                "eps": 0.001,
                "matrix_eps": 0.1,
                "weight_decay": 0.1,
                "precondition_frequency": 1,
                "max_precond_dim": 5,
            },
        ],
        {"eps": 0.0, "matrix_eps": 0.0},
        shapes=(*MATRICES, Shape((6, 7))),
        role="matrix",
    ),
    "soap": Proof(
        soap,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "eps": 0.01,
                "weight_decay": 0.2,
                "precondition_frequency": 3,
                "max_precond_dim": 8,
            },
            {
                "lr": 0.1,
                "betas": (0.9, 0.7),
                "eps": 0.001,
                "weight_decay": 0.1,
                "precondition_frequency": 1,
                "max_precond_dim": 5,
            },
        ],
        {"eps": 0.0},
        shapes=NEARLY_SQUARE,
        role="matrix",
    ),
}
