"""What a board does with a store that already holds results, and with Ctrl-C."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaderboard_setup import rows, trials_of, write_recipe

from optbench_llm.leaderboard import durable
from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.board import _Session
from optbench_llm.leaderboard.command import ALL_RUN, NONE_DONE, run_command
from optbench_llm.leaderboard.environment import this_environment
from optbench_llm.leaderboard.executor import (
    Event,
    Facts,
    Finished,
    Ready,
    Source,
    Started,
    Stepped,
)
from optbench_llm.leaderboard.plan import Plan, make_plan
from optbench_llm.leaderboard.progress import PlainDisplay
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.report.page import write_page
from optbench_llm.run_record import Curves, RunRecord

HERE = replace(this_environment(), device="cpu", device_type="cpu", threads=2)


def done(trial: TrialSpec) -> RunRecord:
    return RunRecord(
        "done", None, trial.spec, trial.lr, trial.seed, 3,
        train_loss=1.0, eval_loss=1.0, curves=Curves(losses=[1.0]),
    )  # fmt: skip


def diverged(trial: TrialSpec) -> RunRecord:
    reason = "loss is nan at step 2"
    return RunRecord("diverged", reason, trial.spec, trial.lr, trial.seed, 2)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two trials: adamw and sgd."""
    return make_plan(load_recipe(str(write_recipe(tmp_path, "adamw", "sgd"))))


@pytest.fixture
def filled(plan: Plan, tmp_path: Path) -> Path:
    """A store in which adamw is done and sgd diverged, so that nothing is left to run."""
    path = tmp_path / "store"
    with Store.open(path, plan.identity) as store:
        store.add_rows(plan.recipe.optimizers)
        for trial, record in zip(trials_of(plan), (done, diverged), strict=True):
            store.put(trial, record(trial), 1.0, HERE)
    return path


def run(plan: Plan, store: Path, specs: Sequence[str]) -> int:
    path = str(store.parent / "mini.yaml")
    return run_command(path, specs=specs, changes={}, store=store, dry_run=False)


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


def test_a_live_page_is_written_as_trials_finish_and_the_last_one_lies_still(
    plan, tmp_path, monkeypatch
):
    """While trials run it loads itself again and says how many are left."""
    monkeypatch.setattr("optbench_llm.leaderboard.local.LocalExecutor", lambda *_: Taking())
    pages: list[str] = []

    def seen(path: Path, text: str) -> None:
        pages.append(text)
        write_page(path, text)

    monkeypatch.setattr("optbench_llm.report.command.write_page", seen)
    monkeypatch.setattr("optbench_llm.leaderboard.command._LIVE_PAGE_S", 0.0)
    recipe, store = str(tmp_path / "mini.yaml"), tmp_path / "store"
    arguments = {"changes": {}, "store": store, "dry_run": False}
    assert run_command(recipe, specs=None, live_report=True, **arguments) == ALL_RUN
    live = ["optbenchLive = true" in page for page in pages]
    assert len(live) > 2
    assert live == [True] * (len(live) - 1) + [False]
    assert "1 of 2 trials have ended" in pages[0]
    assert "trials have ended" not in pages[-1]
    assert (store / "index.html").read_text() == pages[-1]


def test_a_page_that_cannot_be_written_takes_nothing_from_a_board(plan, filled, capsys):
    """Another track's damaged table is named; table and exit code are the run's."""
    (filled / "leaderboard-tuned.json").write_text("{}")
    assert run(plan, filled, ["adamw"]) == ALL_RUN
    assert "the page is not written: " in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((filled / "leaderboard.json").read_text())["rows"]


class Script:
    """An executor that plays fixed events."""

    def __init__(self, *events: Event) -> None:
        self._events = events

    def run(self, source: Source) -> Generator[Event, None, None]:
        yield from self._events


class CtrlC(Script):
    """The same, with Ctrl-C after the last event."""

    def run(self, source: Source) -> Generator[Event, None, None]:
        yield from super().run(source)
        raise KeyboardInterrupt


def ready(**changes: Any) -> Ready:
    facts = {"device": "cpu", "device_type": "cpu", "threads": 2, "processes": 1}
    return Ready(1, Facts(**{**facts, "steps": 3, "data": "", **changes}))


def session(plan: Plan, store: Store, **here: Any) -> _Session:
    """A session that has not begun, on this machine but for ``here``."""
    environment = replace(this_environment(), **here)
    return _Session(plan, store, Agenda(plan, store.by_id), environment, PlainDisplay())


class Taking(Script):
    """An executor that takes what there is, one trial at a time; each is done at once."""

    def run(self, source: Source) -> Generator[Event, None, None]:
        yield ready()
        while trial := source.take(1):
            yield Started(1, trial)
            record = replace(done(trial), eval_loss=abs(math.log10(trial.lr)), test_loss=1.0)
            yield Finished(1, trial, record, 1.0)


def test_results_lead_to_the_trials_that_follow_from_them(tmp_path):
    """A tuned board runs to its end: both searches, both rows' seeds, the baseline's lengths."""
    recipe = load_recipe(str(write_recipe(tmp_path, "adamw")))
    plan = make_plan(override(recipe, {"track": "tuned", "seeds": None}))
    with Store.open(tmp_path / "store", plan.identity) as store:
        begun = session(plan, store)
        begun.run(Taking())
        board = begun.write_tables()
    assert [(row.status, row.finished) for row in board.rows] == [("done", (5, 5))] * 2
    assert len(store.results) >= 2 * 13 + 2 * 5 - 8


@pytest.mark.parametrize(
    "change",
    [
        {"told": {"threads": 1}},
        {"told": {"device": "other"}},
        {"here": {"processor": "other"}},
        {"here": {"versions": {**HERE.versions, "torch": "0.1"}}},
    ],
)
def test_rows_of_another_device_or_thread_count_are_told(plan, filled, change):
    """Speed and the last digits of losses depend on them."""
    with Store.open(filled, plan.identity) as store:
        begun = session(plan, store, **change.get("here", {}))
        begun.run(Script(ready(**change.get("told", {}))))
        assert begun.write_tables().measured_elsewhere == 2


def test_results_of_a_gpu_and_a_cpu_are_never_merged(plan, filled):
    """Their losses and costs cannot stand in one ranking."""
    with (
        Store.open(filled, plan.identity) as store,
        pytest.raises(ValueError, match=r"measured on cpu, and this run is on cuda.*--store"),
    ):
        session(plan, store).run(Script(ready(device_type="cuda")))


def test_ctrl_c_while_a_result_is_stored_loses_neither_it_nor_the_store(
    plan, tmp_path, monkeypatch
):
    """The result is complete: it is stored as done, over what the first attempt left."""
    trial = trials_of(plan)[0]
    events = [ready(), Started(1, trial), Finished(1, trial, done(trial), 1.0)]
    flush, calls = durable._flush_folder, []

    def flush_interrupted_once(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        flush(path)

    monkeypatch.setattr(durable, "_flush_folder", flush_interrupted_once)
    with Store.open(tmp_path / "store", plan.identity) as store:
        begun = session(plan, store)
        with pytest.raises(KeyboardInterrupt):
            begun.run(Script(*events))
        begun.store_interrupted(signal.SIGINT)
        result = store.get(trial)
    assert result is not None
    assert result.record.status == "done"


def test_ctrl_c_keeps_running_trials_as_interrupted(plan, tmp_path):
    """With the losses so far and no loss to rank by, and for another try."""
    first, second = trials_of(plan)
    finished = Finished(1, first, done(first), 1.0)
    events = [ready(), Started(1, first), finished, Started(1, second)]
    events += [Stepped(1, second, step, 4.0 - step) for step in (1, 2)]
    with Store.open(tmp_path / "store", plan.identity) as store:
        begun = session(plan, store)
        with pytest.raises(KeyboardInterrupt):
            begun.run(CtrlC(*events))
        begun.store_interrupted(signal.SIGINT)
        board = begun.write_tables()
        result = store.get(second)
        assert result is not None
        assert result.curves().losses == [3.0, 2.0]
        assert Agenda(plan, store.by_id).missing() == [second]
    rows = board.to_dict()["rows"]
    told = [(r["status"], r["rank"], r["train_loss"], r["steps"]) for r in rows]
    assert told == [("done", 1, 1.0, 3), ("interrupted", 2, None, 2)]
    assert "Ctrl-C after step 2" in rows[1]["reason"]
