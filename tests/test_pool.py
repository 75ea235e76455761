"""What becomes of trials whose worker is lost with its machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_board import record, result
from simulated_workers import FACTS, SimulatedPool, result_of

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.executor import Event, Finished, Notice, Tick
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.pool import LOSSES, LOST
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.trial import Inputs, TrialSpec


class OnOneMachine(SimulatedPool):
    on_one_machine = True


def run(
    script: Any,
    workers: int = 1,
    specs: Sequence[str] = ("adamw", "lion", "adan"),
    pool_class: type[SimulatedPool] = SimulatedPool,
    **simulated: Any,
) -> tuple[list[Event], SimulatedPool]:
    """All events of a board of a trial each, whose results go to a store's dictionary."""
    results: dict[str, Any] = {}
    recipe = override(load_recipe("tiny-gpt2"), {"optimizers": list(specs)})
    agenda = Agenda(Plan(recipe, Inputs("m", "d")), results)
    pool = pool_class({"untouched": False}, workers, Path(), script=script, **simulated)
    events = []
    for event in pool.run(agenda):
        events.append(event)
        if isinstance(event, Finished):
            results[event.trial.id] = result(event.trial, event.record)
            agenda.finished(event.trial)
    return events, pool


def ended(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.trial.spec, e.record.status) for e in events if isinstance(e, Finished)]


def done(trial: dict[str, Any]) -> dict[str, Any]:
    return result_of(record(TrialSpec(**trial), train_loss=1.0))


def test_what_a_lost_machine_ran_runs_again_elsewhere():
    """It is handed back as interrupted; what it ran before stays."""

    def script(number: int, start: int, trial: dict[str, Any]) -> list[dict[str, Any]]:
        if trial["spec"] == "lion" and start == 0:
            return [{"event": "step", "step": 1, "loss": 3.0}, {"event": LOST, "reason": "no node"}]
        return [done(trial)]

    events, pool = run(script)
    assert ended(events) == [
        ("adamw", "done"), ("lion", "interrupted"), ("lion", "done"), ("adan", "done"),
    ]  # fmt: skip
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice == "worker 1 is lost: no node; lion runs again"
    assert [worker.killed for worker in pool.hired] == [True, True]


def test_a_trial_that_loses_every_machine_is_a_row():
    """It is the likeliest cause: without an end it would take one machine after the other."""

    def script(number: int, start: int, trial: dict[str, Any]) -> list[dict[str, Any]]:
        lost = {"event": LOST, "reason": "the node died"}
        return [lost] if trial["spec"] == "lion" else [done(trial)]

    events, pool = run(script)
    assert ended(events) == [
        ("adamw", "done"), *[("lion", "interrupted")] * (LOSSES - 1), ("lion", "error"),
        ("adan", "done"),
    ]  # fmt: skip
    (error,) = [e for e in events if isinstance(e, Finished) and e.record.status == "error"]
    assert error.record.reason == f"lost {LOSSES} workers: the node died"
    assert len(pool.hired) == 1 + LOSSES


def test_machines_that_die_one_after_the_other_end_no_board():
    """Losses are counted by trial: a board on spot machines may lose more than a trial may."""
    specs = ["adamw", "lion", "adan", "sgd", "lamb", "nadam"]

    def script(number: int, start: int, trial: dict[str, Any]) -> list[dict[str, Any]]:
        return [done(trial), {"event": LOST, "reason": "preempted"}]

    events, pool = run(script, specs=specs)
    # The machine dies when it has just begun the next.
    expected = [(specs[0], "done")]
    for spec in specs[1:]:
        expected += [(spec, "interrupted"), (spec, "done")]
    assert ended(events) == expected
    assert len(pool.hired) == len(specs)
    assert sum(isinstance(event, Notice) for event in events) == len(specs) - 1 > LOSSES


def test_a_trial_that_took_its_nodes_memory_is_a_row_at_once():
    """It would take that of the next one too."""

    def script(number: int, start: int, trial: dict[str, Any]) -> list[dict[str, Any]]:
        lost = {"event": LOST, "reason": "the node was low on memory", "out_of_memory": True}
        return [lost] if trial["spec"] == "lion" else [done(trial)]

    events, _ = run(script)
    assert ended(events) == [("adamw", "done"), ("lion", "oom"), ("adan", "done")]


def lost_starts(count: int) -> Any:
    """Workers of which the first so many are lost while they load."""

    def begin(number: int, start: int) -> dict[str, Any]:
        if start < count:
            return {"event": LOST, "reason": "preempted"}
        return {"event": "ready", "facts": FACTS}

    return begin


def test_a_machine_lost_while_it_loads_is_replaced():
    """It says nothing about the recipe."""
    events, pool = run(lambda number, start, trial: [done(trial)], begin=lost_starts(LOSSES - 1))
    assert ended(events) == [("adamw", "done"), ("lion", "done"), ("adan", "done")]
    assert len(pool.hired) == LOSSES


def test_machines_that_are_always_lost_while_they_load_end_the_run():
    """With the reason, in place of going on for ever."""
    with pytest.raises(ValueError, match="worker 1 is lost: preempted"):
        run(lambda number, start, trial: [done(trial)], begin=lost_starts(99))


def test_one_machine_that_cannot_load_does_not_end_a_board_of_several():
    """Before any is ready, too; a person is told. On one machine all would load the same."""

    def begin(number: int, start: int) -> dict[str, Any]:
        if number == 1:
            return {"event": "refused", "message": "model 'm': not found"}
        return {"event": "ready", "facts": FACTS}

    events, _ = run(lambda number, start, trial: [done(trial)], workers=2, begin=begin)
    assert {spec for spec, status in ended(events) if status == "done"} == {"adamw", "lion", "adan"}
    assert [event.text for event in events if isinstance(event, Notice)] == ["model 'm': not found"]
    with pytest.raises(ValueError, match="model 'm': not found"):
        run(lambda *_: [], workers=2, begin=begin, pool_class=OnOneMachine)


def test_time_passes_for_the_listener_while_nothing_happens(monkeypatch):
    """A board that loads, or waits for room, still says once a minute that it lives."""
    monkeypatch.setattr("optbench_llm.leaderboard.pool._TICK_S", 0.05)
    events, _ = run(lambda number, start, trial: [done(trial)], wait_s=0.4)
    assert sum(isinstance(event, Tick) for event in events) >= 6
