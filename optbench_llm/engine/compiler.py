"""Whether this machine can compile: a C++ compiler (or Triton), headers, inductor."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def _probe(x: Tensor) -> Tensor:
    return x * 2 + 1


@functools.cache
def compiler_failure(device: torch.device) -> str | None:
    """Why a function of one line cannot be compiled for this device; None where it can."""
    try:
        with torch.no_grad():
            torch.compile(_probe, fullgraph=True)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None
