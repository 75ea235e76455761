"""What a board does with a store that already holds results, and with Ctrl-C."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from leaderboard_setup import rows, write_recipe

from optbench_llm.leaderboard import store as store_module
from optbench_llm.leaderboard.board import Plan, _Session, make_plan
from optbench_llm.leaderboard.command import ALL_RUN, NONE_DONE, run_command
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.executor import Event, Finished, Ready, Started, Stepped
from optbench_llm.leaderboard.progress import PlainDisplay
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import TrialSpec

HERE = {**describe_environment(), "device": "cpu", "device_type": "cpu", "threads": 2}
DONE = {"status": "done", "reason": None, "train_loss": 1.0, "eval_loss": 1.0, "wall_s": 1.0}
DIVERGED = {"status": "diverged", "reason": "loss is nan at step 2", "wall_s": 1.0}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two trials: adamw and sgd."""
    return make_plan(load_recipe(str(write_recipe(tmp_path, "adamw", "sgd"))))


@pytest.fixture
def filled(plan: Plan, tmp_path: Path) -> Path:
    """A store in which adamw is done and sgd diverged, so that nothing is left to run."""
    path = tmp_path / "store"
    with Store.open(path, plan.identity) as store:
        for trial, record in zip(plan.trials, (DONE, DIVERGED), strict=True):
            store.put(trial, record, [1.0], HERE)
    return path


def run(plan: Plan, store: Path, specs: Sequence[str]) -> int:
    path = str(store.parent / "mini.yaml")
    return run_command(path, specs=specs, changes={}, store=store, workers=1, dry_run=False)


def test_the_exit_code_judges_what_was_asked_for(plan, filled):
    """A finished row of another call does not make up for the failure of all rows of this one."""
    assert run(plan, filled, ["sgd"]) == NONE_DONE
    assert run(plan, filled, ["adamw", "sgd"]) == ALL_RUN


def test_a_call_with_nothing_to_do_forgets_nothing(plan, filled):
    """The table still says what its rows were measured with, and lists the optimizers of all."""
    run(plan, filled, ["sgd"])
    board = json.loads((filled / "leaderboard.json").read_text())
    assert (board["environment"]["device"], board["environment"]["threads"]) == ("cpu", 2)
    assert board["environment"]["rows_measured_elsewhere"] == 0
    assert {entry["spec"] for entry in board["recipe"]["optimizers"]} == {"adamw", "sgd"}
    assert set(rows(filled)) == {"adamw", "sgd"}


class Script:
    """An executor that plays fixed events."""

    def __init__(self, *events: Event) -> None:
        self._events = events

    def run(self, trials: Sequence[TrialSpec]) -> Generator[Event, None, None]:
        yield from self._events


class CtrlC(Script):
    """The same, with Ctrl-C after the last event."""

    def run(self, trials: Sequence[TrialSpec]) -> Generator[Event, None, None]:
        yield from super().run(trials)
        raise KeyboardInterrupt


def ready(**environment: Any) -> Ready:
    facts = {
        "environment": {**HERE, **environment},
        "steps": 3,
        "data": "",
        "untouched_eval_loss": None,
    }
    return Ready(1, facts)


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 1},
        {"device": "other"},
        {"processor": "other"},
        {"versions": {**HERE["versions"], "torch": "0.1"}},
    ],
)
def test_rows_of_another_device_or_thread_count_are_told(plan, filled, change):
    """Speed and the last digits of losses depend on them."""
    with Store.open(filled, plan.identity) as store:
        session = _Session(plan, store, describe_environment(), PlainDisplay())
        session.run(Script(ready(**change)), [])
        assert session.write_tables().environment["rows_measured_elsewhere"] == 2


def test_results_of_a_gpu_and_a_cpu_are_never_merged(plan, filled):
    """Their losses and costs cannot stand in one ranking."""
    with Store.open(filled, plan.identity) as store:
        session = _Session(plan, store, describe_environment(), PlainDisplay())
        with pytest.raises(ValueError, match=r"measured on cpu, and this run is on cuda.*--store"):
            session.run(Script(ready(device_type="cuda")), [])


def test_ctrl_c_while_a_result_is_stored_loses_neither_it_nor_the_store(
    plan, tmp_path, monkeypatch
):
    """The result is complete: it is stored as done, over what the first attempt left."""
    trial = plan.trials[0]
    events = [ready(), Started(1, trial), Finished(1, trial, DONE, [1.0], 1.0)]
    flush, calls = store_module._flush_folder, []

    def flush_interrupted_once(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        flush(path)

    monkeypatch.setattr(store_module, "_flush_folder", flush_interrupted_once)
    with Store.open(tmp_path / "store", plan.identity) as store:
        session = _Session(plan, store, describe_environment(), PlainDisplay())
        with pytest.raises(KeyboardInterrupt):
            session.run(Script(*events), plan.trials)
        session.store_interrupted(signal.SIGINT)
        result = store.get(trial)
    assert result is not None
    assert result.record["status"] == "done"


def test_ctrl_c_keeps_running_trials_as_interrupted(plan, tmp_path):
    """With the losses so far and no loss to rank by, and for another try."""
    first, second = plan.trials
    events = [ready(), Started(1, first), Finished(1, first, DONE, [1.0], 1.0), Started(1, second)]
    events += [Stepped(1, second, step, 4.0 - step) for step in (1, 2)]
    with Store.open(tmp_path / "store", plan.identity) as store:
        session = _Session(plan, store, describe_environment(), PlainDisplay())
        with pytest.raises(KeyboardInterrupt):
            session.run(CtrlC(*events), plan.trials)
        session.store_interrupted(signal.SIGINT)
        board = session.write_tables()
        assert store.get(second).losses == [3.0, 2.0]
        assert plan.missing(store) == [second]
    told = [(r["status"], r["rank"], r["train_loss"], r["steps"]) for r in board.rows]
    assert told == [("done", 1, 1.0, None), ("interrupted", 2, None, 2)]
    assert board.rows[1]["reason"] == "Ctrl-C after step 2"
