"""Random-looking bits of a position: the same eagerly, compiled, on every machine, on resuming."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: All bits of the hash.
MASK = 0xFFFFFFFF


def mixed(x: Tensor) -> Tensor:
    """A hash of 32-bit numbers held in int64, whose products stay below 2**63."""
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & MASK
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & MASK
    return x ^ (x >> 16)
