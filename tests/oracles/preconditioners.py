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


def psgd_kron(
    p: np.ndarray,
    steps: Steps,
    *,
    momentum: float,
    weight_decay: float,
    precond_lr: float,
    precond_init_scale: float,
    preconditioner_update_probability: float | None,
    max_precond_dim: int,
) -> Path:
    """Li 2024 as kron_torch has it: Q_L and Q_R whiten the momentum, fitted by dQ = E Q.

    The factors are full matrices here, diagonal ones too. Fewer than 500 steps, so no schedule.
    """
    rows, columns = p.shape
    q_left = np.eye(rows) * np.sqrt(precond_init_scale)
    q_right = np.eye(columns) * np.sqrt(precond_init_scale)
    m = np.zeros_like(p)
    since = 0
    for t, (lr, g, *_) in enumerate(steps, start=1):
        m = momentum * m + (1 - momentum) * g
        m_hat = m / (1 - momentum**t)
        since += 1
        if since >= 1 / (preconditioner_update_probability or 1.0):
            since = 0
            v = np.array([[probe(i * columns + j, t) for j in range(columns)] for i in range(rows)])
            damped = m_hat + 2**-11.5 * np.abs(m_hat).mean() * v
            a = q_left @ damped @ q_right.T
            b = np.linalg.inv(q_left).T @ v @ np.linalg.inv(q_right)
            q_left = fit(q_left, a @ a.T, b @ b.T, precond_lr, rows <= max_precond_dim)
            q_right = fit(q_right, a.T @ a, b.T @ b, precond_lr, columns <= max_precond_dim)
        u = q_left.T @ q_left @ m_hat @ q_right.T @ q_right
        u = u * min(1.0, 1.1 / (np.sqrt((u**2).mean()) + 1e-12))
        p = p - lr * (u + weight_decay * p)
        yield p


def fit(q: np.ndarray, one: np.ndarray, two: np.ndarray, rate: float, full: bool) -> np.ndarray:
    """The next factor: a step on the group of triangular, or of diagonal, matrices."""
    total = one + two
    if not full or len(q) == 1:
        return q - rate / np.diag(total).max() * np.diag(np.diag(one - two)) @ q
    longest = total[:, np.argmax((total**2).sum(0))]
    x = longest @ total / np.linalg.norm(longest @ total)
    return q - rate / np.linalg.norm(total @ x) * np.triu(one - two) @ q


def probe(position: int, t: int) -> float:
    """A number of the fixed noise, here with Python's unbounded integers."""

    def mix(x: int) -> int:
        x = (x ^ x >> 16) * 0x45D9F3B % 2**32
        x = (x ^ x >> 16) * 0x45D9F3B % 2**32
        return x ^ x >> 16

    return (bin(mix(mix(position) ^ t)).count("1") - 16) / np.sqrt(8)


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


#: With the longer side left out of the bases or one longer than the other: eigenvectors of a
#: single gradient are unique but for their signs, which do not matter.
NEARLY_SQUARE = (Shape((5, 6)), Shape((7, 6), transposed=True), Shape((9, 3)), Shape((4, 4)))

PROOFS: dict[str, Proof] = {
    "psgd-kron": Proof(
        psgd_kron,
        [
            {
                "lr": 0.1,
                "momentum": 0.8,
                "weight_decay": 0.2,
                "precond_lr": 0.3,
                "precond_init_scale": 0.7,
                "preconditioner_update_probability": 0.5,
                "max_precond_dim": 7,
            },
            {
                "lr": 0.1,
                "momentum": 0.6,
                "weight_decay": 0.1,
                "precond_lr": 0.2,
                "precond_init_scale": 3.0,
                "preconditioner_update_probability": None,
                "max_precond_dim": 20,
            },
        ],
        "its factors grow to the scale of the gradients step by step",
        {"test_signs_do_not_matter": "its damping adds one probe to a gradient and to its mirror"},
        shapes=(*MATRICES, Shape((1, 4))),
        role="matrix",
    ),
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
