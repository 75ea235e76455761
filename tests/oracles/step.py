"""What an oracle is given and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """The learning rate, the gradient, and for Sophia a second gradient of so many samples.

    A joint reference gets the gradients of all parameters as a list, None where one has none.
    """

    lr: float
    g: Any
    curvature_g: np.ndarray | None = None
    samples: float = 1.0


Steps = Sequence[Step]
Path = Iterator[Any]
Betas = tuple[float, ...]
