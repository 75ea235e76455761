"""What a result was measured with: package versions and machine. Imports none of the packages."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import optbench_llm
from optbench_llm.leaderboard.cores import usable_cores

_PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "datasets")


# Where these differ, so may speed, memory and the last digits of losses.
_MEASURED_WITH = ("versions", "processor", "device", "threads")


@dataclass(frozen=True)
class Environment:
    """What a result was measured with: package versions, machine, and its share of the machine."""

    versions: dict[str, str]
    python: str
    platform: str
    processor: str
    cores: int
    workers: int | None = None
    device: str | None = None
    device_type: str | None = None
    threads: int | None = None
    processes: int | None = None

    def measures_like(self, other: Environment) -> bool:
        """Whether times and memory of the two may be compared."""
        return all(getattr(self, name) == getattr(other, name) for name in _MEASURED_WITH)

    def to_dict(self) -> dict[str, Any]:
        """What is known, as plain values for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def describe_environment() -> dict[str, Any]:
    """Versions, operating system and processor, as plain values."""
    return this_environment().to_dict()


def this_environment(workers: int | None = None) -> Environment:
    """Versions, operating system, processor, and how many workers share it."""
    versions = {"optbench_llm": optbench_llm.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Environment(
        versions=versions,
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        processor=_processor(),
        cores=usable_cores(),
        workers=workers,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
