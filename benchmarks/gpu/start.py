"""The bandwidth of copies, which bounds every step, and AdamW's first step with nothing cached."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from yardstick.bench import Bench
from yardstick.contenders import Stepper

import optbench_llm as ob
from gpu.clock import timed, times_on_cpu
from gpu.report import Report

COPIED_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
COPIES = 10
#: Calculated for an H100: kernels of one rule are compiled.
FIRST_STEP_S = 3.0


def run(report: Report, device: str) -> None:
    """Measure both; a first step beyond its bound is told, and is no finding."""
    report.record("copy", copy_bandwidth(device))
    bench = Bench("124M" if device == "cuda" else "1M", device)
    engine = "auto" if device == "cuda" else "eager"
    stepper = Stepper(bench, [ob.create_optimizer(bench.model, "adamw", engine=engine)])
    stepper.overwrites = False
    stepper.prepare()
    seconds = [seconds_of(stepper.step, device) for _ in range(2)]
    (optimizer,) = stepper.optimizers
    report.record(
        "first step of adamw",
        {
            "engine": optimizer.engine,
            "engine_reason": optimizer.engine_reason,
            "first_step_s": seconds[0],
            "second_step_s": seconds[1],
            "compile_s": optimizer.compile_s,
            "at_most_s": FIRST_STEP_S,
            "met": seconds[0] <= FIRST_STEP_S,
            "largest_weight": bench.largest_weight(),
        },
    )


def copy_bandwidth(device: str) -> dict[str, float]:
    """Bytes read and written a second by copies of one large tensor."""
    source = torch.ones(COPIED_BYTES[device] // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    copy()
    if device == "cuda":
        ms = statistics.median(timed(copy, lambda: None)[1] for _ in range(COPIES))
    else:
        ms = times_on_cpu(copy, lambda: None)["alone"]["host_ms"]
    moved = 2 * COPIED_BYTES[device]
    return {"bytes": moved, "ms": ms, "gb_per_s": moved / ms / 1e6}


def seconds_of(step: Callable[[], None], device: str) -> float:
    """Seconds until all of a step is done."""
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
