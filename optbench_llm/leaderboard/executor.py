"""What an executor is: it runs trials somewhere and tells, event by event, how they go."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optbench_llm.leaderboard.trial import TrialSpec


@dataclass(frozen=True)
class Ready:
    """A worker has data and model loaded; ``facts`` say what it runs on."""

    worker: int
    facts: dict[str, Any]


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
    """A trial is over, well or badly: ``record`` is its ``RunRecord`` as a dict without losses."""

    worker: int
    trial: TrialSpec
    record: dict[str, Any]
    losses: list[float]
    wall_s: float


Event = Ready | Started | Stepped | Finished


class Executor(Protocol):
    """Where trials run: processes of this machine, or a cluster."""

    def run(self, trials: Sequence[TrialSpec]) -> Generator[Event, None, None]:
        """Run ``trials``; every one ends in exactly one ``Finished``.

        Closing the generator early ends all work at once; running trials are lost.

        Raises:
            ValueError: the workers cannot start from this recipe (data, model), with the reason.
        """
        ...


def failed_record(
    trial: TrialSpec, status: str, reason: str, losses: Sequence[float] = ()
) -> dict[str, Any]:
    """The record of a trial that left none itself: what is known, and no invented number."""
    return {
        "status": status,
        "reason": reason,
        "optimizer": trial.spec,
        "lr": trial.lr,
        "seed": trial.seed,
        "steps": len(losses),
    }
