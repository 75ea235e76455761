"""How new values are written into bf16 parameters so that small steps are not lost.

Both ways work on the bits of fp32 numbers: a compiler folds a cast to bf16 and back into nothing,
and a Kahan residual with it. Random bits come from a hash of the step, the parameter and the
element's position, so that eager and compiled steps, replicas and resumed runs round alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optbench_llm.rules.hashing import MASK, mixed
from optbench_llm.rules.rule import Slot

#: What Kahan summation keeps: the part of the parameter that bf16 cannot hold.
COMPENSATION = Slot("compensation", delicate=True, storage="bf16")
#: The scalar that holds the key of a parameter's random bits.
NOISE = "noise"
LOW_BITS = 0xFFFF
#: Keys of the noise are exact in fp32.
KEY_BITS = 24


def bf16_to_nearest(x: Tensor) -> Tensor:
    """fp32 values rounded to the nearest bf16, ties to even, still as fp32; NaN stays NaN."""
    bits = x.view(torch.int32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return _unless_nan(x, rounded)


def bf16_stochastic(x: Tensor, key: Tensor | float, start: int) -> Tensor:
    """fp32 values rounded to one of the two bf16 neighbours, in the mean to ``x``; still as fp32.

    ``key`` is a :func:`noise_key`, ``start`` the position of the first element in its parameter.
    NaN stays NaN.
    """
    position = torch.arange(start, start + x.numel(), device=x.device).view(x.shape)
    shift = torch.as_tensor(key, device=x.device).long() * 0x9E3779
    noise = mixed((mixed(position) + shift) & MASK)
    return _unless_nan(x, x.view(torch.int32) + (noise & LOW_BITS).int())


def noise_key(t: int, parameter: int) -> int:
    """The key of one parameter at step ``t``: an integer of 24 bits."""
    x = (t * 0x9E3779B1 + parameter * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & MASK
    x = ((x ^ (x >> 15)) * 0x45D9F3B) & MASK
    return (x ^ (x >> 16)) & ((1 << KEY_BITS) - 1)


def _unless_nan(x: Tensor, bits: Tensor) -> Tensor:
    """The bf16 numbers of these bits; the sums behind the bits of a NaN may wrap around to 0."""
    return (bits & ~LOW_BITS).view(torch.float32).where(~x.isnan(), x)
