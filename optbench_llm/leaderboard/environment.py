"""What a result was measured with: package versions and machine. Imports none of the packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import optbench_llm
from optbench_llm.leaderboard.cores import usable_cores

_PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "datasets")


def describe_environment() -> dict[str, Any]:
    """Versions, operating system and processor, as plain values."""
    versions = {"optbench_llm": optbench_llm.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": usable_cores(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
