"""Random bits for stochastic rounding: the same eagerly, compiled, in replicas and on resuming.

They are a hash of the step, the parameter, what is rounded and the element's position. All of it is
arithmetic on 32-bit integers, which a compiler turns into vector code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from zlib import crc32

import torch
from torch import Tensor

#: The scalar that holds the key of a parameter's random bits.
NOISE = "noise"
#: Keys are exact in fp32.
KEY_BITS = 24
#: Of an element in its unit: for compiled code that serves several, a tensor of one int32.
Position = int | Tensor


@dataclass(frozen=True)
class Noise:
    """The random bits of one value that a step rounds.

    ``key`` is a :func:`noise_key`; ``stream`` names the value among all that the step rounds;
    ``start`` is the position of its first element in the unit.
    """

    key: Tensor | float
    stream: str
    start: Position = 0

    def from_position(self, start: int) -> Noise:
        """The bits of the elements from a position of the value on."""
        return replace(self, start=self.start + start)

    def bits(self, like: Tensor, count: int) -> Tensor:
        """Integers of ``count`` random bits, at most 24, in the shape of ``like``; int32."""
        stream = wrapped(crc32(self.stream.encode()))
        first, second = (self._mixed(factor, stream) for factor in (0x9E3779B1, 0x85EBCA6B))
        positions = torch.arange(like.numel(), dtype=torch.int32, device=like.device)
        start = self.start if isinstance(self.start, Tensor) else wrapped(self.start)
        x = positions.view(like.shape) + start
        x = (x ^ first) * wrapped(0x7FEB352D)
        x = x ^ (x >> 15 & 0x1FFFF) ^ second
        # The upper bits of a product depend on all bits of its factors.
        return x * wrapped(0x846CA68B) >> (32 - count) & ((1 << count) - 1)

    def _mixed(self, factor: int, stream: int) -> Tensor | int:
        """The key times a factor, plus the stream, as int32; of a number without a tensor."""
        if isinstance(self.key, Tensor):
            return self.key.to(torch.int32) * wrapped(factor) + stream
        return wrapped(int(self.key) * factor + stream)


def noise_key(t: int, *place: int) -> int:
    """The key of step ``t`` of what has this place in the optimizer: an integer of 24 bits."""
    x = t
    for number in (0, *place):
        x = (x * 0x9E3779B1 + number * 0x85EBCA6B + 1) & 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * 0x045D9F3B) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x045D9F3B) & 0xFFFFFFFF
        x ^= x >> 16
    return x >> (32 - KEY_BITS)


def wrapped(x: int) -> int:
    """The int32 number of the last 32 bits of an integer."""
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)
