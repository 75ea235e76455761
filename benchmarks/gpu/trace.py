"""What one step makes the device do, counted from torch.profiler's trace."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

STEP = "the step that is counted"
RUNTIME = ("cuda_runtime", "cuda_driver")
#: Calls that return when the device has done what it was given.
WAITING = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cuStreamSynchronize",
    "cuCtxSynchronize",
    "cuEventSynchronize",
)
OF_DEVICE = {"kernel": "kernels", "gpu_memcpy": "copies", "gpu_memset": "fills"}


def traced(step: Callable[[], Any]) -> dict[str, Any]:
    """Kernels, copies, fills and syncs of one step, and which kernels those were."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with record_function(STEP):
            step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return counted(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def counted(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The counts of a Chrome trace in which one stretch of the host's is named STEP."""
    complete = [event for event in events if event.get("ph") == "X"]
    (stretch,) = [
        event
        for event in complete
        if (event["name"], event.get("cat")) == (STEP, "user_annotation")
    ]
    began, ended = stretch["ts"], stretch["ts"] + stretch["dur"]
    found: dict[str, Any] = {**dict.fromkeys(OF_DEVICE.values(), 0), "syncs": 0, "names": {}}
    for event in complete:
        category = event.get("cat")
        kind = OF_DEVICE.get(category)
        if kind is not None:
            found[kind] += 1
            found["names"][event["name"]] = found["names"].get(event["name"], 0) + 1
        elif category in RUNTIME and began <= event["ts"] <= ended:
            found["syncs"] += event["name"] in WAITING
    return found
