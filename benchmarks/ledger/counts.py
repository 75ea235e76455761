"""What one call communicates and allocates on this process, counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional")


@dataclass
class Counts:
    """Of one process. ``sent`` and ``received`` leave out what stays on the process.

    ``payload_bytes`` are those of the tensors that all-reduces add up.
    """

    all_reduces: int = 0
    payload_bytes: int = 0
    exchanges: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    flops: int = 0
    peak_bytes: int | None = None


class Communication(TorchDispatchMode):
    """Sees every collective that reaches torch's dispatcher, whichever function called it."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective, and let it be."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes back as what it does on this process
        if func.namespace in NAMESPACES:
            self._count(func, args)
        return func(*args, **(kwargs or {}))

    def _count(self, func: Any, args: Any) -> None:
        counts, name = self.counts, func._opname
        if name == "allreduce_":
            counts.all_reduces += 1
            counts.payload_bytes += sum(map(_bytes, args[0]))
        elif name == "alltoall_base_":
            output, tensor, _, output_splits, input_splits = args[:5]
            rank, size = dist.get_rank(), tensor.element_size()
            counts.exchanges += 1
            counts.sent_bytes += _bytes(tensor) - input_splits[rank] * size
            counts.received_bytes += _bytes(output) - output_splits[rank] * size
        else:
            raise RuntimeError(f"the step called {func}, which nobody counts here; add it")


def counted(call: Callable[[], Any], *, memory: bool) -> Counts:
    """Make the call and count; the memory too, which costs a record of each operation."""
    counts = Counts()
    kinds = [ProfilerActivity.CPU]
    with (
        profile(activities=kinds, profile_memory=True) if memory else nullcontext() as found,
        FlopCounterMode(display=False) as flops,
        Communication(counts),
    ):
        call()
    counts.flops = flops.get_total_flops()
    counts.peak_bytes = None if found is None else _peak(found)
    return counts


def gathered_counts(counts: Counts, **more: int) -> list[dict[str, Any]]:
    """Those of all processes, in order of rank; every process must call it."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, asdict(counts) | more)
    return found


def _peak(found: profile) -> int:
    """The most that was allocated at once beyond what was before, by torch's own allocator."""
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    events = found.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak = level = 0
    for _, size in memory:
        level += size
        peak = max(peak, level)
    return peak


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
