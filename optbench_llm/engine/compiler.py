"""Whether to compile: what the model repays, and this machine can."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from optbench_llm.engine.graphs import Layout, compile_graph

ENGINES = ("auto", "eager", "compiled")
#: Element updates from which compiling repays itself: eager code takes about 10 ns longer for each,
#: a rule's graphs take 2 to 3 s to compile where no cache has them.
COMPILE_FROM_UPDATES = 300_000_000
#: What is assumed of a run whose length nobody told.
USUAL_STEPS = 1000


def check_engine(engine: str) -> None:
    """Raise ValueError for a name that is none of an engine."""
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")


def choose_engine(asked: str, params: Sequence[Tensor], steps: int | None) -> tuple[str, str]:
    """``eager`` or ``compiled``, and why.

    ``auto`` decides by the elements of ``params`` and the ``steps`` of the run, and warns where
    what should be compiled cannot be. Raises RuntimeError where compiled code was asked for and
    cannot be had.
    """
    if asked == "eager":
        return "eager", "as asked"
    elements = sum(p.numel() for p in params)
    ahead = USUAL_STEPS if steps is None else steps
    updates = f"{elements:,} elements x {ahead:,} steps" + (" assumed" if steps is None else "")
    if asked == "auto" and elements * ahead < COMPILE_FROM_UPDATES:
        return "eager", f"{updates} do not repay compiling"
    failure = compiler_failure(params[0].device)
    if failure is None:
        return "compiled", "as asked" if asked == "compiled" else f"{updates} repay compiling"
    advice = "install g++ and Python's headers, or set CXX"
    if asked == "compiled":
        raise RuntimeError(f"engine 'compiled' does not work here ({failure}); {advice}")
    warnings.warn(
        f"cannot compile ({failure}), so the optimizer steps eagerly, several times slower;"
        f" {advice}"
    )
    return "eager", f"cannot compile ({failure})"


def _probe(x: Tensor) -> tuple[Tensor]:
    return (x * 2 + 1,)


@functools.cache
def compiler_failure(device: torch.device) -> str | None:
    """Why a function of one line cannot be compiled for this device; None where it can."""
    try:
        x = torch.ones(8, dtype=torch.float32, device=device)
        compile_graph(_probe, [Layout.of(x)])([x])
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None
