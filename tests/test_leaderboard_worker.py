"""A worker's events: whatever a trial's record holds, it arrives."""

from __future__ import annotations

import json
from typing import Any

from optbench_llm.leaderboard.ranks import Ranks
from optbench_llm.leaderboard.worker import _run, encode
from optbench_llm.run_record import Curves, RunRecord

TRIAL = {"spec": "some:Optimizer", "lr": 0.1, "seed": 1}


class Bench:
    """Runs every trial with the same outcome."""

    def __init__(self, hyperparameters: list[dict[Any, Any]]) -> None:
        self._record = RunRecord(
            status="done", reason=None, optimizer="some:Optimizer", lr=0.1, seed=1, steps=1,
            hyperparameters=hyperparameters, curves=Curves([1.0]),
        )  # fmt: skip

    def run(self, trial: dict[str, Any], on_step: Any) -> RunRecord:
        return self._record


def sent(
    hyperparameters: list[dict[Any, Any]], ranks: Any = None
) -> tuple[list[dict[str, Any]], bool]:
    """What a worker sends of a trial with these in its record, and whether it goes on."""
    events: list[dict[str, Any]] = []

    def send(**event: Any) -> None:
        events.append(json.loads(encode(event)))

    goes_on = _run(Bench(hyperparameters), TRIAL, ranks or Ranks(), send)
    return events, goes_on


def test_a_setting_that_json_has_no_word_for_does_not_lose_the_trial():
    """Foreign optimizers keep functions and types in their groups: their text will do."""
    (event,), goes_on = sent([{"lr": 0.1, "fn": complex}])
    assert goes_on
    record = RunRecord.from_dict(event["record"])
    assert record.curves.losses == [1.0]
    assert record.hyperparameters == [{"lr": 0.1, "fn": "<class 'complex'>"}]


def test_a_record_that_cannot_be_sent_is_a_row_with_the_reason():
    """And the end of this worker, as of any that fails."""
    (event,), goes_on = sent([{("a", "b"): 1}])
    assert (goes_on, event["event"], event["status"]) == (False, "failed", "error")
    assert event["reason"].startswith("TypeError: keys must be")


class LostRanks:
    """A process whose others are gone when it has trained."""

    count = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def meet(self) -> None:
        raise RuntimeError("connection closed by peer")


def test_no_process_writes_beside_the_first_that_may_be_sending_a_record():
    """A record is a line too long for a pipe to keep whole: then only the first writes."""
    events, goes_on = sent([], LostRanks(0))
    assert ([event["event"] for event in events], goes_on) == (["failed"], False)
    assert sent([], LostRanks(1)) == ([], False)
