"""What a trial left: its record, where it ran, and, read when asked for, its curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord

FINAL = ("done", "diverged")
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
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TrialResult:
    """A stored trial. ``record.curves`` is empty; ``curves()`` reads them from the disk."""

    trial: TrialSpec
    record: RunRecord
    wall_s: float
    environment: Environment
    curves: Callable[[], Curves] = field(default=Curves, compare=False, repr=False)

    @property
    def final(self) -> bool:
        """Whether the same trial would give the same again; all else is worth another try."""
        return self.record.status in FINAL

    @property
    def failed(self) -> bool:
        """Whether something else than its numbers ended it: an error, memory or time."""
        return self.record.status in ("error", "oom", "timeout")

    @property
    def validation_loss(self) -> float:
        """The loss that a search chooses by: infinite where the trial did not finish."""
        loss = self.record.eval_loss
        return float("inf") if self.record.status != "done" or loss is None else loss
