"""Whether to compile: what the model repays, and this machine can; for a CPU alone."""

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
    what should be compiled cannot be.

    Raises:
        ValueError: Compiled code was asked for, and parameters are not on a CPU.
        RuntimeError: It was asked for, and this machine's compiler does not work.
    """
    if asked == "eager":
        return "eager", "as asked"
    elsewhere = next((p.device.type for p in params if p.device.type != "cpu"), None)
    if elsewhere is not None and asked == "compiled":
        raise ValueError(
            f"engine 'compiled' makes code for a CPU, and parameters are on {elsewhere!r}; there,"
            " use engine 'auto' or 'eager', which step each tensor by kernels of torch's own"
        )
    elements = sum(p.numel() for p in params)
    ahead = USUAL_STEPS if steps is None else steps
    updates = f"{elements:,} elements x {ahead:,} steps" + (" assumed" if steps is None else "")
    if asked == "auto" and elements * ahead < COMPILE_FROM_UPDATES:
        return "eager", f"{updates} do not repay compiling"
    if elsewhere is not None:
        reason = f"code is compiled for CPUs alone, and parameters are on {elsewhere!r}"
        warnings.warn(
            f"{reason}: the optimizer steps eagerly, some 15 kernels a tensor and several times as"
            " long as a fused one; its numbers are the same, its time compares with no fused one's"
        )
        return "eager", reason
    failure = compiler_failure()
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
def compiler_failure() -> str | None:
    """Why a function of one line cannot be compiled here; None where it can."""
    try:
        x = torch.ones(8, dtype=torch.float32, device="cpu")
        compile_graph(_probe, [Layout.of(x)])([x])
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None
