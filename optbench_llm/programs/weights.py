"""Weights that a program moves for a while, and puts back bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def has_gradient(p: Tensor) -> bool:
    """Whether it has a gradient, and an element."""
    return p.grad is not None and p.numel() > 0


def with_gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """Those that have a gradient, and an element."""
    return [p for p in params if has_gradient(p)]


def stepped(optimizer: Any) -> list[Tensor]:
    """All parameters that an optimizer will step."""
    return [p for group in optimizer.param_groups for p in with_gradients(group["params"])]


def at_least_fp32(tensor: Tensor) -> torch.dtype:
    """The dtype to add up in: fp32 for 16 bits."""
    return torch.promote_types(tensor.dtype, torch.float32)


def norm(tensor: Tensor) -> Tensor:
    """Euclidean norm, in at least fp32; over all processes of what is sharded."""
    found = torch.linalg.vector_norm(tensor, dtype=at_least_fp32(tensor))
    return found.full_tensor() if isinstance(found, DTensor) else found


def norm_of_all(norms: Sequence[Tensor]) -> Tensor:
    """Norm of several tensors together, of which these are the norms; on the first one's device."""
    return norm(torch.stack([own.to(norms[0].device) for own in norms]))


def first_short(optimizer: Any) -> Tensor | None:
    """A parameter in 16 bits, if an optimizer has one."""
    params = (p for group in optimizer.param_groups for p in group["params"])
    return next((p for p in params if p.dtype in (torch.bfloat16, torch.float16)), None)


def plain(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: state has no others."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_parameter(p: Tensor, part: Tensor) -> Tensor:
    """What this process holds, as the tensor that all hold together; undoes :func:`plain`."""
    if not isinstance(p, DTensor):
        return part
    return DTensor.from_local(
        part, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )


@torch.no_grad()
def put(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give parameters other values."""
    for p, value in zip(params, values, strict=True):
        p.copy_(value)


@contextlib.contextmanager
def moved_away(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield copies of the weights, which are what they were afterwards, whatever happens."""
    kept = [p.detach().clone() for p in params]
    try:
        yield kept
    finally:
        put(params, kept)
