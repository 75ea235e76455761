"""Buffers of a model, which forward passes write: running statistics, codebooks, counters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Buffer(NamedTuple):
    """One buffer of a module, and a copy of what it held."""

    module: nn.Module
    name: str
    tensor: Tensor
    content: Tensor


def buffers_of(model: nn.Module) -> list[Buffer]:
    """All buffers of a model with copies of their content; they are small beside its weights."""
    return [
        Buffer(module, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for name, tensor in module.named_buffers(recurse=False)
    ]


@torch.no_grad()
def put_back(buffers: list[Buffer]) -> None:
    """Let the modules hold the same tensors again, with what they held then."""
    for module, name, tensor, content in buffers:
        module._buffers[name] = tensor
        tensor.copy_(content)
