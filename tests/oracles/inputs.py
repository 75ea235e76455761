"""Parameters and gradients from a closed formula: the same on every machine, exact in fp32.

Element i of tensor number ``salt`` is ``n / 1024`` with n the odd number
``2 * ((a*i*i + b*i*salt + c*salt*salt + d*salt + i) mod 1021) - 1021``, so 0 < |value| < 1.
"""

from __future__ import annotations

import numpy as np

A, B, C, D = 377, 613, 271, 997


def values(shape: tuple[int, ...], salt: int) -> np.ndarray:
    """A float64 array of the shape, its elements in row-major order."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    n = 2 * ((A * i * i + B * i * salt + C * salt * salt + D * salt + i) % 1021) - 1021
    return (n / 1024).reshape(shape)


def parameter(shape: tuple[int, ...], index: int) -> np.ndarray:
    """The start of parameter number ``index``."""
    return values(shape, 1000 + index)


def gradient(shape: tuple[int, ...], index: int, t: int) -> np.ndarray:
    """Its gradient at step ``t``: a lasting half and a half that changes from step to step."""
    lasting, passing = values(shape, 2000 + index), values(shape, 3000 + 50 * index + t)
    return np.asarray((lasting + passing) / 2)


def curvature_gradient(shape: tuple[int, ...], index: int, t: int) -> np.ndarray:
    """Its gradient of the sampled labels at step ``t``."""
    return values(shape, 4000 + 50 * index + t)
