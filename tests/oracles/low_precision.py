"""Proofs of rules for parameters in 16 bits, whose arithmetic is that of their fp32 originals."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.moments import adamw
from oracles.proof import Proof
from oracles.step import Path, Steps


def adamw_bf16(theta: np.ndarray, steps: Steps, *, rounding: str, **h: Any) -> Path:
    """AdamW: fp32 and float64 parameters are not rounded (see test_engine_rounding.py)."""
    return adamw(theta, steps, **h)


PROOFS = {
    "adamw-bf16": Proof(
        adamw_bf16,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 1e-3,
                "weight_decay": 0.2,
                "rounding": "kahan",
            }
        ],
        {"eps": 0.0},
        unfelt=("rounding",),
    ),
}
