"""What one call communicates and allocates on this process, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional")


@dataclass
class Counts:
    """Of one process. ``sent_bytes`` and ``received_bytes`` leave out what stays on the process,
    ``payload_bytes`` are those of the tensors that all-reduces add up. ``peak_bytes`` is the most
    that tensors took at once which were not there before.

    """

    all_reduces: int = 0
    payload_bytes: int = 0
    exchanges: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    flops: int = 0
    peak_bytes: int = 0


class Counter(TorchDispatchMode):
    """Sees all that reaches torch's dispatcher: collectives, whoever called them, and new tensors.

    ``held`` are the tensors that are there before.
    """

    def __init__(self, counts: Counts, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.counts = counts
        self._held = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in held}
        self._new: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let an operation be, and count."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes back as what it does on this process
        if func.namespace in NAMESPACES:
            self._count(func, args)
        found = func(*args, **(kwargs or {}))
        self._weigh(tensor for tensor in tree_leaves(found) if isinstance(tensor, Tensor))
        return found

    def _weigh(self, made: Iterable[Tensor]) -> None:
        """Take new memory in, and leave out what is free again."""
        for tensor in made:
            storage = tensor.untyped_storage()
            weak = StorageWeakRef(storage)
            if tensor.device.type == "cpu" and weak.cdata not in self._held:
                self._new[weak.cdata] = (weak, storage.nbytes())
        self._new = {key: entry for key, entry in self._new.items() if not entry[0].expired()}
        level = sum(size for _, size in self._new.values())
        self.counts.peak_bytes = max(self.counts.peak_bytes, level)

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


def counted(call: Callable[[], Any], held: Iterable[Tensor]) -> Counts:
    """Make the call and count; ``held`` are the tensors that are there before."""
    counts = Counts()
    with FlopCounterMode(display=False) as flops, Counter(counts, held):
        call()
    counts.flops = flops.get_total_flops()
    return counts


def gathered_counts(counts: Counts, **more: int) -> list[dict[str, int]]:
    """Those of all processes, in order of rank; every process must call it."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, asdict(counts) | more)
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
