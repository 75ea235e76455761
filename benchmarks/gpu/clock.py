"""Milliseconds of a step: by the device's events and by the host's clock, alone and queued."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

FEWEST, MOST = 5, 15
ENOUGH_S = 0.5
QUEUE_MS = 20.0
#: Of a bfloat16 product, about 1.4 ms on an H100.
PRODUCT_SIDE = 8192
#: Of the work ahead in the queue; a host that takes longer than that has waited for it.
WAITING_SHARE = 0.5


class Products:
    """Matrix products that keep the device busy for QUEUE_MS."""

    def __init__(self) -> None:
        shape = (PRODUCT_SIDE, PRODUCT_SIDE)
        self._factor = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        self._out = torch.empty_like(self._factor)
        self.count = 1
        self.enqueue()
        one = statistics.median(timed(self.enqueue, lambda: None)[1] for _ in range(5))
        self.count = max(1, round(QUEUE_MS / one))

    def enqueue(self) -> None:
        """Queue all of them."""
        for _ in range(self.count):
            torch.mm(self._factor, self._factor, out=self._out)


def timed(
    step: Callable[[], Any], prepare: Callable[[], Any], ahead: Callable[[], Any] | None = None
) -> tuple[float, float]:
    """Milliseconds of one step on the host, until it returns, and on the device, by events.

    ``prepare`` is done before; what ``ahead`` queues is not.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    prepare()
    torch.cuda.synchronize()
    if ahead is not None:
        ahead()
    start.record()
    began = time.perf_counter()
    step()
    host_ms = 1e3 * (time.perf_counter() - began)
    end.record()
    torch.cuda.synchronize()
    return host_ms, start.elapsed_time(end)


def times_on_gpu(
    step: Callable[[], Any], prepare: Callable[[], Any], products: Products
) -> dict[str, Any]:
    """Medians of warmed-up steps, alone and behind the products."""
    found: dict[str, Any] = {}
    for name, ahead in (("alone", None), ("queued", products.enqueue)):
        pairs: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(pairs) < MOST:
            pairs.append(timed(step, prepare, ahead))
            if len(pairs) >= FEWEST and time.perf_counter() - began > ENOUGH_S:
                break
        host_ms, device_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = {"host_ms": host_ms, "device_ms": device_ms, "repetitions": len(pairs)}
    return found


def waits(times: dict[str, Any]) -> bool:
    """Whether the host waited for what was ahead in the queue."""
    return times["queued"]["host_ms"] - times["alone"]["host_ms"] > WAITING_SHARE * QUEUE_MS


def times_on_cpu(step: Callable[[], Any], prepare: Callable[[], Any]) -> dict[str, Any]:
    """The median by the host's clock, which is all there is."""
    found = []
    for _ in range(FEWEST):
        prepare()
        began = time.perf_counter()
        step()
        found.append(1e3 * (time.perf_counter() - began))
    return {"alone": {"host_ms": statistics.median(found), "repetitions": FEWEST}}
