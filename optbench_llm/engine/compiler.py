"""Whether to compile: what the model repays, and this machine can."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from optbench_llm.engine.graphs import Layout, compile_graph

ENGINES = ("auto", "eager", "compiled")
#: Below this many elements a compiled step does not repay its compilation in a usual run.
COMPILE_FROM_ELEMENTS = 16_000_000


def choose_engine(asked: str, params: Sequence[Tensor]) -> str:
    """``eager`` or ``compiled``; ``auto`` warns where a large model cannot be compiled.

    Raises RuntimeError where compiled code was asked for and cannot be had.
    """
    few = sum(p.numel() for p in params) < COMPILE_FROM_ELEMENTS
    if asked == "eager" or (asked == "auto" and few):
        return "eager"
    failure = compiler_failure(params[0].device)
    if failure is None:
        return "compiled"
    advice = "install g++ and Python's headers, or set CXX"
    if asked == "compiled":
        raise RuntimeError(f"engine 'compiled' does not work here ({failure}); {advice}")
    warnings.warn(
        f"cannot compile ({failure}), so the optimizer steps eagerly, several times slower;"
        f" {advice}"
    )
    return "eager"


def _probe(x: Tensor) -> tuple[Tensor]:
    return (x * 2 + 1,)


@functools.cache
def compiler_failure(device: torch.device) -> str | None:
    """Why a function of one line cannot be compiled for this device; None where it can."""
    try:
        x = torch.ones(8, device=device)
        compile_graph(_probe, [Layout.of(x)])(x)
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None
