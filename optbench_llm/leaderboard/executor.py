"""What an executor is: it runs trials somewhere and tells, event by event, how they go."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord


@dataclass(frozen=True)
class Facts:
    """What a worker runs on and has loaded; the untouched losses are None where nobody asked."""

    device: str
    device_type: str
    threads: int
    processes: int
    steps: int | None
    data: str
    untouched_eval_loss: float | None = None
    untouched_test_loss: float | None = None


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


Event = Ready | Started | Stepped | Finished


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
    """Where trials run: processes of this machine, or a cluster."""

    def run(self, source: Source) -> Generator[Event, None, None]:
        """Run what ``source`` gives until it gives no more; each trial ends in one ``Finished``.

        The consumer tells the source what a ``Finished`` brought before it asks for the next event.
        Closing the generator early ends all work at once; running trials are lost.

        Raises:
            ValueError: the workers cannot start from this recipe (data, model), with the reason.
        """
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
