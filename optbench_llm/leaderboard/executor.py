"""What an executor is: it runs trials somewhere and tells, event by event, how they go."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord


@dataclass(frozen=True)
class Facts:
    """What a worker runs on and has loaded; the untouched losses are None where nobody asked.

    ``machine`` are the versions, system and processor that it found (see `describe_environment`).
    """

    device: str
    device_type: str
    threads: int
    processes: int
    steps: int | None
    data: str
    untouched_eval_loss: float | None = None
    untouched_test_loss: float | None = None
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """A worker has data and model loaded."""

    worker: int
    facts: Facts


@dataclass(frozen=True)
class Started:
    """A worker has begun a trial."""

    worker: int
    trial: TrialSpec


@dataclass(frozen=True)
class Stepped:
    """A trial has finished optimizer step ``step`` (counted from 1) with this training loss."""

    worker: int
    trial: TrialSpec
    step: int
    loss: float


@dataclass(frozen=True)
class Finished:
    """A trial is over, well or badly."""

    worker: int
    trial: TrialSpec
    record: RunRecord
    wall_s: float


@dataclass(frozen=True)
class Notice:
    """What a person should know of where trials run."""

    text: str


@dataclass(frozen=True)
class Tick:
    """Nothing has happened for a moment."""


Event = Ready | Started | Stepped | Finished | Notice | Tick


class Source(Protocol):
    """Where an executor's trials come from (see `Agenda`)."""

    def take(self, worker: int) -> TrialSpec | None:
        """The next trial for this worker; None where there is none now.

        There may be one after the next trial has finished.
        """
        ...

    def waiting(self) -> int:
        """How many trials could be taken now."""
        ...


class Executor(Protocol):
    """What runs trials: processes of this machine, or of a cluster."""

    def run(self, source: Source) -> Generator[Event, None, None]:
        """Run what ``source`` gives until it gives no more; each trial ends in one ``Finished``.

        One that is lost with its machine ends as interrupted, and the source gives it again.

        The consumer tells the source what a ``Finished`` brought before it asks for the next event.
        Closing the generator early ends all work at once; running trials are lost.

        Raises:
            ValueError: the workers cannot start from this recipe (data, model), with the reason.
        """
        ...


class Site(Protocol):
    """Where trials run."""

    @property
    def workers(self) -> int:
        """How many trials run at a time."""
        ...

    @property
    def in_words(self) -> str | None:
        """What a person should know of it; None of this machine."""
        ...

    def threads(self, processes: int) -> int:
        """Threads of each of a trial's ``processes``."""
        ...

    def executor(
        self,
        setup: dict[str, Any],
        *,
        processes: int,
        log_folder: Path,
        trial_timeout_s: float | None,
    ) -> Executor:
        """What runs trials there, with workers of this set-up (see `pool.worker_setup`)."""
        ...


def failed_record(
    trial: TrialSpec, status: str, reason: str, losses: Sequence[float] = ()
) -> RunRecord:
    """The record of a trial that left none itself: what is known, and no invented number."""
    return RunRecord(
        status=status,  # pyright: ignore[reportArgumentType]
        reason=reason,
        optimizer=trial.spec,
        lr=trial.lr,
        seed=trial.seed,
        steps=len(losses),
        curves=Curves(losses=list(losses)),
    )
