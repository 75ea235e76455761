"""How fp32 values are written into bf16 so that small steps are not lost.

All of it works on the bits of fp32 numbers: a compiler folds a cast to bf16 and back into nothing,
and a Kahan residual with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optbench_llm.engine.noise import Noise
from optbench_llm.rules.rule import Slot

#: What Kahan summation keeps: the part of the parameter that bf16 cannot hold.
COMPENSATION = Slot("compensation", delicate=True, storage="bf16")
#: How many low bits of fp32 bf16 lacks.
LOW_BITS = 16
LOW_MASK = (1 << LOW_BITS) - 1


def bf16_to_nearest(x: Tensor) -> Tensor:
    """fp32 values rounded to the nearest bf16, ties to even, still as fp32; NaN stays NaN."""
    bits = x.view(torch.int32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return _unless_nan(x, rounded)


def bf16_stochastic(x: Tensor, noise: Noise) -> Tensor:
    """fp32 values rounded to one of the two bf16 neighbours, in the mean to ``x``; still as fp32.

    NaN stays NaN.
    """
    return _unless_nan(x, x.view(torch.int32) + noise.bits(x, LOW_BITS))


def _unless_nan(x: Tensor, bits: Tensor) -> Tensor:
    """The bf16 numbers of these bits; the sums behind the bits of a NaN may wrap around to 0.

    NaN alone is unequal to itself, which vector code tells at once; ``isnan`` takes a loop.
    """
    return (bits & ~LOW_MASK).view(torch.float32).where(x == x, x)
