"""A worker's events: whatever a trial's record holds, it arrives."""

from __future__ import annotations

import json
from typing import Any

from optbench_llm.leaderboard.ranks import Ranks
from optbench_llm.leaderboard.worker import _run, encode

TRIAL = {"spec": "some:Optimizer", "lr": 0.1, "seed": 1}


class Bench:
    """Runs every trial with the same outcome."""

    def __init__(self, record: dict[str, Any]) -> None:
        self._record = record

    def run(self, trial: dict[str, Any], on_step: Any) -> dict[str, Any]:
        return dict(self._record)


def sent(record: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What a worker sends of a trial with this record, and whether it goes on."""
    events: list[dict[str, Any]] = []

    def send(**event: Any) -> None:
        events.append(json.loads(encode(event)))

    goes_on = _run(Bench(record), TRIAL, Ranks(), send)
    (event,) = events
    return event, goes_on


def test_a_setting_that_json_has_no_word_for_does_not_lose_the_trial():
    """Foreign optimizers keep functions and types in their groups: their text will do."""
    record = {"status": "done", "losses": [1.0], "hyperparameters": [{"lr": 0.1, "fn": complex}]}
    event, goes_on = sent(record)
    assert goes_on
    assert event["losses"] == [1.0]
    assert event["record"]["hyperparameters"] == [{"lr": 0.1, "fn": "<class 'complex'>"}]


def test_a_record_that_cannot_be_sent_is_a_row_with_the_reason():
    """And the end of this worker, as of any that fails."""
    event, goes_on = sent({"status": "done", "losses": [], "hyperparameters": [{("a", "b"): 1}]})
    assert (goes_on, event["event"], event["status"]) == (False, "failed", "error")
    assert event["reason"].startswith("TypeError: keys must be")
