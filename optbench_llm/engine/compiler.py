"""Which executor steps the parameters: what the model repays, and their device has."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optbench_llm.engine.graphs import Layout, compile_graph, compiled_together
from optbench_llm.engine.triton.availability import triton_failure

ENGINES = ("auto", "eager", "compiled", "triton")
#: Element updates from which compiling repays itself: eager code takes about 10 ns longer for each,
#: a rule's graphs take 2 to 3 s to compile where no cache has them.
COMPILE_FROM_UPDATES = 300_000_000
#: What is assumed of a run whose length nobody told.
USUAL_STEPS = 1000


class Choice(NamedTuple):
    """What runs the stages of a rule, ``eager``, ``compiled`` or ``triton``, and why."""

    engine: str
    reason: str


def check_engine(engine: str) -> None:
    """Raise ValueError for a name that is none of an engine."""
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")


def choose_engine(
    asked: str, params: Sequence[Tensor], steps: int | None, storage: str = "fp32"
) -> Choice:
    """What is to run, given what was asked for.

    Off the CPU that is Triton, for ``compiled`` too, or eager code where Triton does not work, with
    a warning. On a CPU ``auto`` decides by the elements of ``params`` and the ``steps`` of the run,
    and warns where what should be compiled cannot be.

    Raises:
        ValueError: Triton's or compiled code was asked for, and cannot serve these parameters.
        RuntimeError: Compiled code was asked for, and this machine's compiler does not work.
    """
    if asked == "eager":
        return Choice("eager", "as asked")
    devices = {p.device for p in params}
    if asked == "triton" or any(device.type != "cpu" for device in devices):
        return _triton_or_eager(asked, params, devices, storage)
    elements = sum(p.numel() for p in params)
    ahead = USUAL_STEPS if steps is None else steps
    updates = f"{elements:,} elements x {ahead:,} steps" + (" assumed" if steps is None else "")
    if asked == "auto" and elements * ahead < COMPILE_FROM_UPDATES:
        return Choice("eager", f"{updates} do not repay compiling")
    failure = compiler_failure()
    if failure is None:
        return Choice(
            "compiled", "as asked" if asked == "compiled" else f"{updates} repay compiling"
        )
    advice = "install g++ and Python's headers, or set CXX"
    if asked == "compiled":
        raise RuntimeError(f"engine 'compiled' does not work here ({failure}); {advice}")
    warnings.warn(
        f"cannot compile ({failure}), so the optimizer steps eagerly, several times slower;"
        f" {advice}"
    )
    return Choice("eager", f"cannot compile ({failure})")


def _triton_or_eager(
    asked: str, params: Sequence[Tensor], devices: Collection[torch.device], storage: str
) -> Choice:
    """Triton where it can step these parameters; its kernels serve any sizes."""
    bf16 = storage == "bf16" or any(p.dtype is torch.bfloat16 for p in params)
    failure = triton_failure(devices, bf16=bf16)
    if failure is None:
        kinds = ", ".join(sorted({device.type for device in devices}))
        return Choice("triton", "as asked" if asked == "triton" else f"parameters are on {kinds}")
    if asked != "auto":
        raise ValueError(
            f"engine {asked!r} cannot step these parameters: {failure}; use engine 'auto' or"
            " 'eager', which step each tensor by kernels of torch's own"
        )
    warnings.warn(
        f"{failure}: the optimizer steps eagerly, some 15 kernels a tensor and several times as"
        " long as a fused one; its numbers are the same, its time compares with no fused one's"
    )
    return Choice("eager", failure)


def _probe(x: Tensor) -> tuple[Tensor]:
    return (x * 2 + 1,)


@functools.cache
def compiler_failure() -> str | None:
    """Why a function of one line cannot be compiled here; None where it can."""
    try:
        x = torch.ones(8, dtype=torch.float32, device="cpu")
        with compiled_together():
            probe = compile_graph(_probe, [Layout.of(x)])
        probe([x])
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None
