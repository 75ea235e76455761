"""Float64 references and proofs: rules that see whole matrices and know what they are."""

from __future__ import annotations

import numpy as np

from oracles.proof import MATRICES, Proof, Shape
from oracles.step import Betas, Path, Steps


def quintic(matrix: np.ndarray) -> np.ndarray:
    """Five times the polynomial of Muon's post on each singular value, through the SVD."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.sqrt((values**2).sum()) + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


def muon(
    p: np.ndarray, steps: Steps, *, momentum: float, nesterov: bool, weight_decay: float
) -> Path:
    """https://kellerjordan.github.io/posts/muon/ and KellerJordan/Muon; kernels as (out, rest)."""
    average = np.zeros_like(p)
    for step in steps:
        average = momentum * average + (1 - momentum) * step.g
        u = momentum * average + (1 - momentum) * step.g if nesterov else average
        flat = u.reshape(len(p), -1)
        rows, columns = flat.shape
        u = (np.sqrt(max(1, rows / columns)) * quintic(flat)).reshape(p.shape)
        p = (1 - step.lr * weight_decay) * p - step.lr * u
        yield p


def scion(p: np.ndarray, steps: Steps, *, alpha: float, radius: float, weight_decay: float) -> Path:
    """2502.07529, algorithms 1 and 2, norms of hidden layers in table 2 and in scion.py.

    Embedding and head are held to the authors' own numbers instead, in traces/layouts.
    """
    average = np.zeros_like(p)
    for step in steps:
        average = (1 - alpha) * average + alpha * step.g
        if p.ndim < 2:
            direction = average / (np.sqrt(np.mean(average**2)) + 1e-8)
        else:
            flat = average.reshape(len(p), -1)
            rows, columns = flat.shape
            direction = (np.sqrt(rows / columns) * quintic(flat)).reshape(p.shape)
        p = (1 - step.lr * weight_decay) * p - step.lr * radius * direction
        yield p


def adam_mini(
    p: np.ndarray,
    steps: Steps,
    *,
    betas: Betas,
    eps: float,
    weight_decay: float,
    blocks: int | None = None,
) -> Path:
    """2406.16793, algorithm 1; ``blocks`` None: a row each, one for vectors."""
    beta1, beta2 = betas
    count = (len(p) if p.ndim > 1 else 1) if blocks is None else blocks
    m, v = np.zeros_like(p), [0.0] * count
    for t, step in enumerate(steps, start=1):
        m = beta1 * m + (1 - beta1) * step.g
        moves = np.zeros(p.size)
        for number, block in enumerate(np.split(np.arange(p.size), count)):
            mean = np.mean(step.g.ravel()[block] ** 2)
            v[number] = beta2 * v[number] + (1 - beta2) * mean
            root = np.sqrt(v[number] / (1 - beta2**t)) + eps
            moves[block] = m.ravel()[block] / (1 - beta1**t) / root
        p = (1 - step.lr * weight_decay) * p - step.lr * moves.reshape(p.shape)
        yield p


WITH_VECTORS = (Shape((7,)), *MATRICES, Shape(()))
FLOOR = "the iteration adds 1e-7 to the norm of the momentum"

PROOFS: dict[str, Proof] = {
    "muon": Proof(
        muon,
        cases=[
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            {"lr": 0.05, "momentum": 0.8, "nesterov": False, "weight_decay": 0.1},
        ],
        scale_free=FLOOR,
        shapes=MATRICES,
        role="matrix",
    ),
    "scion": Proof(
        scion,
        cases=[
            {"lr": 0.02, "alpha": 0.2, "radius": 2.0, "weight_decay": 0.9},
            {"lr": 0.02, "alpha": 0.5, "radius": 1.0, "weight_decay": 0.0},
        ],
        scale_free=FLOOR,
        shapes=WITH_VECTORS,
        role="matrix",
    ),
    "adam-mini": Proof(
        adam_mini,
        cases=[{"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}],
        scale_free={"eps": 0.0},
        exceptions={
            "test_wider_scopes_do_not_commute_with_splitting": "a matrix without heads has a block"
            " a row; test_rules_ties_matrices.py shows that heads and vectors cannot be split"
        },
        shapes=WITH_VECTORS,
        role="matrix",
    ),
}
