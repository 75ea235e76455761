"""What a trial left: its record, where it ran, and, read when asked for, its curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord

FINAL = ("done", "diverged")


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
