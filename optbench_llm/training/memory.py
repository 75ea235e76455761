"""Peak memory of a stretch of work: of the process on the CPU, of the allocator on a GPU."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
#: Written to clear_refs, this sets the peak of the resident set back to its present size (proc(5)).
_RESET_PEAK = "5"


def reset_peak_memory(device: torch.device) -> None:
    """Start a new stretch. Where the kernel cannot, the CPU's peak stays that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            return


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since :func:`reset_peak_memory`: resident set on the CPU, allocated memory on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if found:
            return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
