"""How large a gradient counts: far beyond any that trains, far within what fp32 can square."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def largest_gradient(dtype: torch.dtype) -> float:
    """The power of two below the cube root of the largest number: 2**42, or 4.4e12, in fp32.

    The squares of as many such elements have a finite sum.
    """
    return 2.0 ** (math.log2(torch.finfo(dtype).max) // 3)


def bounded(g: Tensor) -> Tensor:
    """A gradient with its elements within :func:`largest_gradient`; NaN where it is not finite.

    A square beyond fp32's range would make a second moment infinite for good, and NaN of all that
    share it. A gradient that is no number is not hidden: it ends the run.
    """
    limit = largest_gradient(g.dtype)
    # 0 times infinity is NaN; to all others this adds 0, which leaves even the sign of a zero.
    return g.clamp(-limit, limit).add_(g, alpha=0.0)
