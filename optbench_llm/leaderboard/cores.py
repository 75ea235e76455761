"""How many cores and threads a process of this machine may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """CPU cores this process may use: by its affinity, and by the time its container is given."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(_CGROUPS))))


def threads_per_process(processes: int) -> int:
    """The user's own OMP_NUM_THREADS, or an equal share of the cores."""
    wish = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    return max(1, usable_cores() // processes)


def cpu_quota(folder: Path) -> float:
    """Cores' worth of time that Linux gives a control group; infinite without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)
