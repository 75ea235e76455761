"""Steps over GPT-2 124M, ours beside torch's, bitsandbytes' and pytorch_optimizer's."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from yardstick.bench import Bench
from yardstick.contenders import REFUSALS, Contender, Stepper, contenders

from gpu.clock import Products, times_on_cpu, times_on_gpu, waits
from gpu.report import Report
from gpu.tolerances import SYNCS
from gpu.trace import traced

#: All scopes and storages; the first are those that matter most, should the time not do.
SPECS = (
    "adamw", "lion", "lion@int8", "lamb", "adamp", "muon", "prodigy", "adamw@int8", "adamw@bf16",
    "lion@bf16", "adafactor", "ranger", "adan", "adamw-schedulefree", "sgd",
)  # fmt: skip
ENGINES = ("auto", "eager")
FUSED = "torch:AdamW fused"
#: A GPU's first steps compile and fill tables.
WARM_UP_STEPS = 3
TIMES_FUSED = 1.3
#: Calculated for an H100, in ms of the device.
BOUNDS_MS = {
    "adamw": 1.2, "lion": 0.9, "lion@int8": 0.8, "lamb": 1.9, "adamp": 3.0, "muon": 5.0,
}  # fmt: skip
#: What CUDA's queue holds, about: a host that launches more waits for room, whatever it does.
QUEUE_LAUNCHES = 1000
#: Of weights and state, what a step may take beside them.
EXTRA_MEMORY = 0.02


def run(report: Report, device: str) -> None:
    """Time all, and hold AdamW and the syncs against their bounds."""
    on_gpu = device == "cuda"
    bench = Bench("124M" if on_gpu else "1M", device)
    products = Products() if on_gpu else None
    report.record("about", {"params": bench.size, "elements": bench.elements})
    measured: dict[str, dict[str, Any]] = {}
    for spec in SPECS:
        row = measured.setdefault(spec, {})
        for one in in_order(contenders(spec, ENGINES if on_gpu else ("eager",))):
            row[one.label] = measured_or_reason(one, bench, products)
            report.record(spec, row)
            for finding in findings_of(spec, one.label, row):
                report.find(finding)
    if on_gpu:
        report.record("bounds", bounds(measured))


def in_order(implementations: Iterable[Contender]) -> list[Contender]:
    """Fused AdamW first, since others are held against it."""
    return sorted(implementations, key=lambda one: one.label != FUSED)


def measured_or_reason(one: Contender, bench: Bench, products: Products | None) -> dict[str, Any]:
    """One implementation's figures, or why there are none."""
    bench.reset()
    try:
        return measure(one.ready(bench, WARM_UP_STEPS), bench, products)
    except REFUSALS as error:
        return {"reason": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def measure(stepper: Stepper, bench: Bench, products: Products | None) -> dict[str, Any]:
    """Times, counts and memory of a warmed-up optimizer, and whether the weights stay finite."""
    found: dict[str, Any] = {"state_bytes": stepper.state_bytes()}
    for optimizer in stepper.optimizers:
        if hasattr(optimizer, "engine"):
            found |= {"engine": optimizer.engine, "engine_reason": optimizer.engine_reason}
    if products is None:
        found |= times_on_cpu(stepper.step, stepper.prepare)
    else:
        found |= times_on_gpu(stepper.step, stepper.prepare, products)
        stepper.prepare()
        found |= traced(stepper.step)
        stepper.prepare()
        extra = extra_memory_bytes(stepper.step)
        share = extra / (bench.param_bytes + found["state_bytes"])
        found |= {"extra_memory_bytes": extra, "extra_memory_share": share}
    found["largest_weight"] = bench.largest_weight()
    return found


def extra_memory_bytes(step: Callable[[], None]) -> int:
    """The most that a step has allocated beyond what it found."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def findings_of(spec: str, label: str, row: dict[str, dict[str, Any]]) -> list[str]:
    """What must not be of the implementation of a row that was measured last."""
    one, fused = row[label], row.get(FUSED, {})
    if not label.startswith("ours"):
        return []
    if "reason" in one:
        return [f"{spec}, {label}: {one['reason']}"]
    found = []
    if one.get("syncs", 0) > SYNCS:
        found.append(f"{spec}, {label}: {one['syncs']} syncs in a step, at most {SYNCS}")
    if "queued" in one and one["kernels"] < QUEUE_LAUNCHES and one["syncs"] == 0 and waits(one):
        ms = one["queued"]["host_ms"]
        found.append(f"{spec}, {label}: returned after {ms:.1f} ms, waiting for what was queued")
    if spec == "adamw" and label == "ours, auto":
        for how in ("alone", "queued"):
            if how in fused and "device_ms" in one[how]:
                ratio = one[how]["device_ms"] / fused[how]["device_ms"]
                if ratio > TIMES_FUSED:
                    found.append(
                        f"{spec}, {label}: {ratio:.2f} times {FUSED}, {how}, at most {TIMES_FUSED}"
                    )
    return found


def bounds(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The calculated bounds beside what was measured; missing one is no finding."""
    found = []

    def add(name: str, at_most: float, value: float | None) -> None:
        met = value is not None and value <= at_most
        found.append({"bound": name, "at_most": at_most, "measured": value, "met": met})

    for spec, row in measured.items():
        one = row.get("ours, auto", {})
        if spec in BOUNDS_MS:
            add(f"{spec}, ms", BOUNDS_MS[spec], one.get("queued", {}).get("device_ms"))
        add(f"{spec}, extra memory, share", EXTRA_MEMORY, one.get("extra_memory_share"))
    return found
