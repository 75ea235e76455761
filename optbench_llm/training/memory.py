"""Peak memory of a stretch of work: of the process on the CPU, of the allocator on a GPU.

A Mac's GPU has the process's memory, and its allocator tells no peak.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
#: Written to clear_refs, this sets the peak of the resident set back to its present size (proc(5)).
_RESET_PEAK = "5"
#: Kinds of devices whose allocators remember how much was in use at once.
_TELL_PEAKS = ("cuda", "xpu")


def reset_peak_memory(device: torch.device) -> None:
    """Start a new stretch.

    On the CPU only Linux can, and not where ``/proc`` is read-only, as in some containers. There
    the peak stays that of the process so far: in a warm worker no later trial's figure can be
    below an earlier one's.
    """
    if device.type in _TELL_PEAKS:
        torch.get_device_module(device).reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _CLEAR_REFS.write_text(_RESET_PEAK)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since :func:`reset_peak_memory`: allocated memory on a GPU, resident set on the CPU.

    On the CPU it is an upper bound where that function cannot start a new stretch.
    """
    if device.type in _TELL_PEAKS:
        return torch.get_device_module(device).max_memory_allocated(device)
    if _STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if found:
            return int(found.group(1)) * 1024
    return _peak_of_process()


def _peak_of_process() -> int:
    """Resident set of this process at its largest, as systems other than Linux tell it."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
