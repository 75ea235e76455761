"""How much memory a step takes beyond what it finds and leaves, as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
#: The kernel's counts are coarser than what a step of fewer elements may take.
FROM_ELEMENTS = 16_000_000


def extra_peak_bytes(step: Callable[[], None]) -> int | None:
    """Peak of the resident memory during ``step`` less the resident memory before it.

    Free memory is given back to the system first, so that a temporary counts whether the allocator
    had room for it or not. None where the system does not count peaks (Linux alone does).
    """
    if not CLEAR_REFS.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_bytes("VmRSS")
    CLEAR_REFS.write_text(RESET_PEAK)
    step()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found, name
    return 1024 * int(found[1])
