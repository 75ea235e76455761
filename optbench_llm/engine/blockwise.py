"""Numbers in 8 bits, in blocks with a scale each: two codes, both pure arithmetic.

A look-up table, as Dettmers et al. (arXiv:2110.02861) have, takes a search for each number. A NaN
or an infinity makes its block's scale one, and the block decodes to NaN and infinities: it is not
hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optbench_llm.engine.noise import Noise

#: Ends the name of a slot's scales in the state.
SCALE = "_scale"
#: Scales below the smallest normal fp32 number would have no reciprocal.
TINY = torch.finfo(torch.float32).tiny
#: Low bits of fp32 that a code lacks: codes have 4 bits of mantissa.
CUT_BITS = 19
HALF = 1 << (CUT_BITS - 1)
ONE = 0x3F800000
SIGN_BIT = -(1 << 31)


def _offset(largest: int) -> tuple[int, float]:
    """The number so many codes below 1, as bits and as a float."""
    bits = ONE - (largest << CUT_BITS)
    return bits, torch.tensor(bits, dtype=torch.int32, device="cpu").view(torch.float32).item()


SIGNED_BITS, SIGNED = _offset(127)
POSITIVE_BITS, POSITIVE = _offset(255)


def encode_signed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes of fp32 numbers (blocks, elements), and the largest magnitude of each block.

    The codes are a sign and a floating-point number of 4 bits of mantissa and 3 of exponent,
    rounded to nearest: neighbours are 1/32 to 1/16 of themselves apart, and 2**-12 of the block's
    largest where they are smaller than 2**-8 of it. Codes at equal distances would be faster, and
    lose most elements of a block whose magnitudes differ widely.
    """
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=TINY)
    shifted = (blocks.abs() * ((1 - SIGNED) / scale) + SIGNED).clamp(max=1.0)
    codes = (shifted.view(torch.int32) - (SIGNED_BITS - HALF)) >> CUT_BITS
    return (-codes).where(blocks < 0, codes).to(torch.int8), scale.view(-1)


def decode_signed(codes: Tensor, scale: Tensor) -> Tensor:
    """Numbers of int8 codes (blocks, elements), in the dtype of the scales."""
    # Inductor has vectors of 32-bit numbers, and takes 8-bit ones beside others one by one.
    numbers = codes.to(torch.int32)
    shifted = ((numbers.abs() << CUT_BITS) + SIGNED_BITS).view(torch.float32) - SIGNED
    # Both have their sign in the same bit.
    signed = (shifted.view(torch.int32) | (numbers & SIGN_BIT)).view(torch.float32)
    return signed.to(scale.dtype) * (scale * (1 / (1 - SIGNED))).unsqueeze(1)


def encode_positive(blocks: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """uint8 codes of fp32 numbers >= 0 (blocks, elements), and the largest of each block in fp32.

    The codes are floating-point numbers of 4 bits of mantissa and 4 of exponent: neighbours are
    1/32 to 1/16 of themselves apart, and 2**-20 of the block's largest where they are smaller
    than 2**-16 of it. They are rounded in the mean to the number itself, or to nearest without
    noise; only numbers below the smallest code but 0 become that one, since what is divided by
    the root of a 0 explodes.
    """
    scale = blocks.amax(1, keepdim=True).clamp(min=TINY)
    shifted = (blocks * ((1 - POSITIVE) / scale) + POSITIVE).clamp(max=1.0)
    dither = HALF if noise is None else noise.bits(blocks, CUT_BITS)
    codes = (shifted.view(torch.int32) - POSITIVE_BITS + dither) >> CUT_BITS
    codes = codes.clamp(min=1).where(blocks > 0, codes)
    return codes.to(torch.uint8), scale.view(-1)


def decode_positive(codes: Tensor, scale: Tensor) -> Tensor:
    """Numbers of uint8 codes (blocks, elements), in the dtype of the scales."""
    shifted = ((codes.to(torch.int32) << CUT_BITS) + POSITIVE_BITS).view(torch.float32) - POSITIVE
    return shifted.to(scale.dtype) * (scale * (1 / (1 - POSITIVE))).unsqueeze(1)
