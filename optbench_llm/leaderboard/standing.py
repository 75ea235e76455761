"""How far a running leaderboard is: what its display shows, and ``status.json`` tells others."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from statistics import median
from typing import Any

from pydantic import TypeAdapter, ValidationError

from optbench_llm.leaderboard.executor import Event, Finished, Ready, Started, Stepped
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import RunRecord

FILE = "status.json"
#: So many of the last failures are told.
_FAILURES = 5


@dataclass(frozen=True)
class Running:
    """A trial that runs: ``since`` in seconds of the clock, ``steps`` None while nobody knows."""

    worker: int
    name: str
    since: float
    step: int = 0
    steps: int | None = None
    loss: float | None = None

    @property
    def in_words(self) -> str:
        """``adan 0.001 0: step 35 of 150, loss 3.2100``."""
        of = f" of {self.steps}" if self.steps else ""
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        return f"{self.name}: step {self.step}{of}{loss}"


@dataclass(frozen=True)
class Failure:
    """A trial that failed in this run."""

    name: str
    status: str
    reason: str | None


@dataclass(frozen=True)
class Standing:
    """How far a run is, at the time ``at``; times in seconds, of the clock where no length.

    ``ended`` of ``planned`` trials have a result, of this run or of earlier ones; ``by_status``
    counts those of this run. ``left_s`` is None before the first has ended. ``over`` says how the
    run ended: ``done``, or the name of a signal; None while it runs.
    """

    recipe: str
    began: float
    at: float
    host: str
    pid: int
    workers: int
    ended: int
    planned: int
    left_s: float | None = None
    running: tuple[Running, ...] = ()
    by_status: dict[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    over: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: bytes) -> Standing:
        """What `to_dict` gave.

        Raises:
            ValueError: damaged; names what is wrong.
        """
        try:
            return _reader().validate_json(text)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None


@cache
def _reader() -> TypeAdapter[Standing]:
    return TypeAdapter(Standing)


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def name_of(trial: TrialSpec) -> str:
    """What tells a trial from the others of its board."""
    return run_name(trial.spec, trial.lr, trial.seed)


def run_name(spec: str, lr: float, seed: int) -> str:
    """``adan 0.001 42``."""
    return f"{spec} {lr:.3g} {seed}"


class Watch:
    """Listens to a run's events: what runs, what failed, and how long the rest will take."""

    def __init__(self) -> None:
        self._steps: dict[int, int | None] = {}
        self._running: dict[int, Running] = {}
        self._kinds: dict[int, tuple[str, int | None]] = {}
        self._failures: deque[Failure] = deque(maxlen=_FAILURES)
        self._by_status: Counter[str] = Counter()
        self._wall_s: dict[tuple[str, int | None], list[float]] = {}

    @property
    def running(self) -> tuple[Running, ...]:
        """The trials that run, by worker."""
        return tuple(self._running[worker] for worker in sorted(self._running))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The last that failed."""
        return tuple(self._failures)

    @property
    def by_status(self) -> dict[str, int]:
        """How many trials have ended in which way."""
        return dict(self._by_status)

    def see(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Ready):
            self._steps[event.worker] = event.facts.steps
        elif isinstance(event, Started):
            steps = event.trial.max_steps or self._steps.get(event.worker)
            name = name_of(event.trial)
            self._kinds[event.worker] = (event.trial.spec, event.trial.max_steps)
            self._running[event.worker] = Running(event.worker, name, time.time(), 0, steps)
        elif isinstance(event, Stepped):
            before = self._running[event.worker]
            self._running[event.worker] = Running(
                before.worker, before.name, before.since, event.step, before.steps, event.loss
            )
        elif isinstance(event, Finished):
            self._running.pop(event.worker, None)
            self._by_status[event.record.status] += 1
            self._end(event.trial, event.record, event.wall_s)

    def left_s(self, left: Mapping[tuple[str, int | None], int], workers: int) -> float | None:
        """Seconds until ``left``, trials by spec and length, have run; None where nothing has.

        A kind that has not run yet takes as long as most do.
        """
        if not self._wall_s:
            return None
        known = {kind: median(times) for kind, times in self._wall_s.items()}
        usual = median(known.values())
        total = sum(known.get(kind, usual) * count for kind, count in left.items())
        now = time.time()
        for worker, trial in self._running.items():
            total -= min(now - trial.since, known.get(self._kinds[worker], usual))
        return max(0.0, total) / workers

    def _end(self, trial: TrialSpec, record: RunRecord, wall_s: float) -> None:
        if record.status in ("done", "diverged"):
            self._wall_s.setdefault((trial.spec, trial.max_steps), []).append(wall_s)
        elif record.status != "interrupted":
            self._failures.append(Failure(name_of(trial), record.status, record.reason))
