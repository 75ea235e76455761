"""Time of the optimizer's steps alone: wall time on the CPU, stream time on an accelerator."""

from __future__ import annotations

import time
from typing import Any

import torch

from optbench_llm.devices import synchronize


class OptimizerClock:
    """Times steps between :meth:`start` and :meth:`stop`.

    An accelerator is not waited for before :meth:`read`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cpu = device.type == "cpu"
        self._start: Any = None
        self._spans: list[tuple[Any, Any]] = []
        self._first_read = False

    def start(self) -> None:
        """Mark the time before the step."""
        self._start = self._now()

    def stop(self) -> bool:
        """Mark the time after the step; returns whether it was the first one."""
        self._spans.append((self._start, self._now()))
        return len(self._spans) == 1 and not self._first_read

    def read(self) -> tuple[float | None, list[float]]:
        """Milliseconds of the first step (once) and of the others since the last call."""
        if self._spans:
            synchronize(self._device)
        times = [
            (end - start) * 1e3 if self._on_cpu else start.elapsed_time(end)
            for start, end in self._spans
        ]
        self._spans = []
        if self._first_read or not times:
            return None, times
        self._first_read = True
        return times[0], times[1:]

    def _now(self) -> Any:
        if self._on_cpu:
            return time.perf_counter()
        event = torch.get_device_module(self._device).Event(enable_timing=True)
        event.record()
        return event


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside the wrappers that accelerate and DeepSpeed put around it."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer
