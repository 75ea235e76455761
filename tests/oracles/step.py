"""What an oracle is given and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """The learning rate, the gradient, and for Sophia a second gradient of so many samples."""

    lr: float
    g: np.ndarray
    curvature_g: np.ndarray | None = None
    samples: float = 1.0


Steps = Sequence[Step]
Path = Iterator[np.ndarray]
Betas = tuple[float, ...]
