"""Random vectors in the shape of a parameter, made where it lies from bits of each position.

Only integers and a table of numbers enter, no function that devices compute differently: the same
bits come out on every device, in every process, and of every part of a sharded parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from optbench_llm.engine.noise import Noise
from optbench_llm.engine.pieces import piece_elements
from optbench_llm.engine.sharding import Sharding, local, sharding_of
from optbench_llm.programs.weights import as_parameter

#: Of the bits that choose a normal number: 65,536 of them, up to 4.3 standard deviations away.
NORMAL_BITS = 16
Distribution = Callable[[Tensor, Noise], Tensor]


def signs(like: Tensor, noise: Noise) -> Tensor:
    """1 or -1 in the shape of ``like``, as int32."""
    return 1 - 2 * noise.bits(like, 1)


def normal(like: Tensor, noise: Noise) -> Tensor:
    """Numbers of mean 0 and variance 1 in the shape of ``like``, as fp32: normal quantiles."""
    chosen = noise.bits(like, NORMAL_BITS).view(-1)
    return _quantiles(like.device).index_select(0, chosen).view(like.shape)


def drawn(p: Tensor, noise: Noise, distribution: Distribution) -> Tensor:
    """Random numbers in the shape of a parameter, in its dtype and as it lies over processes.

    The host does not wait for the device, but for the table of normal numbers, once.
    """
    sharding = sharding_of("hutchinson", p)
    if sharding is not None and sharding.dim:
        # The positions of its part are scattered over the whole.
        return as_parameter(p, _part_of_whole(local(p), sharding, noise, distribution))
    part = torch.empty_like(local(p), memory_format=torch.contiguous_format)
    _fill(part, noise.from_position(0 if sharding is None else sharding.origin), distribution)
    return as_parameter(p, part)


def _part_of_whole(
    like: Tensor, sharding: Sharding, noise: Noise, distribution: Distribution
) -> Tensor:
    whole = like.new_empty(sharding.shape)
    _fill(whole, noise, distribution)
    return sharding.part(whole).contiguous()


def _fill(out: Tensor, noise: Noise, distribution: Distribution) -> None:
    """In pieces, so that temporaries stay in a CPU's cache, and small on an accelerator."""
    flat = out.view(-1)
    for start, piece in enumerate(flat.split(piece_elements(out.device))):
        position = start * piece_elements(out.device)
        piece.copy_(distribution(piece, noise.from_position(position)))


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Equally likely values of a standard normal number, symmetric, of variance 1."""
    count = 1 << NORMAL_BITS
    upper = torch.arange(count // 2, dtype=torch.float64, device="cpu")
    upper = torch.special.ndtri((upper + (count + 1) / 2) / count)
    upper = upper / upper.square().mean().sqrt()
    return torch.cat([-upper.flip(0), upper]).float().to(device)
