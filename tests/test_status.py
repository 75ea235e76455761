"""What another terminal is told of a running board, and what a batch system's log shows."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_board import record, result
from leaderboard_setup import start_leaderboard, trials_of, write_recipe
from simulated_workers import FACTS
from typer.testing import CliRunner

from optbench_llm.cli import app
from optbench_llm.leaderboard.executor import Facts, Finished, Notice, Ready, Started, Stepped
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.progress import PlainDisplay
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.standing import Failure, Running, Standing, Watch, clock
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import Inputs
from optbench_llm.status_page import read_status

TRIALS = trials_of(Plan(load_recipe("tiny-gpt2"), Inputs("m", "d")))
STANDING = Standing(
    recipe="mini", began=1000.0, at=1090.0, host="here", pid=7, workers=2, ended=3, planned=8,
    left_s=3725.0,
    running=(
        Running(1, "adan 0.001 42", 1080.0, 35, 150, 3.21), Running(2, "lion 1e-4 42", 1085.0),
    ),
    by_status={"done": 2, "error": 1},
    failures=(Failure("sgd 1 42", "error", "RuntimeError: no"),),
)  # fmt: skip


def finished(trial, status="done", wall_s=10.0):
    return Finished(1, trial, record(trial, status=status, reason="why"), wall_s)


def test_a_watch_knows_what_runs_how_far_and_what_failed():
    first, second, third = TRIALS[:3]
    watch = Watch()
    watch.see(Ready(1, Facts(**{**FACTS, "steps": 150})))
    watch.see(Started(1, first))
    watch.see(Stepped(1, first, 35, 3.21))
    (running,) = watch.running
    assert running.in_words == f"{first.spec} {first.lr:.3g} {first.seed}: step 35 of 150, " + (
        "loss 3.2100"
    )
    assert time.time() - running.since < 60
    watch.see(finished(first))
    assert watch.running == ()
    watch.see(Started(1, second))
    watch.see(finished(second, "oom"))
    watch.see(Started(1, third))
    watch.see(finished(third, "interrupted"))
    assert watch.by_status == {"done": 1, "oom": 1, "interrupted": 1}
    assert [(one.name.split()[0], one.status) for one in watch.failures] == [(second.spec, "oom")]


def test_time_left_is_by_kind_of_trial():
    """Ten quick rows and a slow one are not eleven of the mean."""
    quick, slow = TRIALS[0], TRIALS[1]
    watch = Watch()
    assert watch.left_s({(quick.spec, None): 3}, 1) is None
    for _ in range(3):
        watch.see(finished(quick, wall_s=10.0))
    watch.see(finished(slow, wall_s=100.0))
    watch.see(finished(slow, "timeout", wall_s=900.0))
    left = {(quick.spec, None): 4, (slow.spec, None): 2}
    assert watch.left_s(left, 2) == pytest.approx((4 * 10 + 2 * 100) / 2)
    # Of a kind that nobody has seen: as long as half of the known ones take.
    assert watch.left_s({("new", None): 2}, 1) == pytest.approx(2 * 55)


def test_a_standing_is_read_back_and_a_damaged_one_is_refused():
    text = json.dumps(STANDING.to_dict()).encode()
    assert Standing.from_json(text) == STANDING
    with pytest.raises(ValueError, match="planned"):
        Standing.from_json(text.replace(b'"planned": 8', b'"planned": "many"'))


def test_a_log_has_a_line_a_minute(capsys, monkeypatch):
    """Of a batch job whose trials take hours: done, left, and the running losses."""
    clock_s = [0.0]
    monkeypatch.setattr("optbench_llm.leaderboard.progress.time.monotonic", lambda: clock_s[0])
    display = PlainDisplay()
    for second in range(0, 200, 10):
        clock_s[0] = float(second)
        display.stand(STANDING)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines
        == [
            "3 of 8 trials have ended, 1:02:05 left; adan 0.001 42: step 35 of 150, loss 3.2100; "
            "lion 1e-4 42: step 0"
        ]
        * 3
    )
    many = replace(STANDING, running=STANDING.running[:1] * 64)
    clock_s[0] = 300.0
    display.stand(many)
    assert capsys.readouterr().out.endswith("; 60 more\n")
    display.show(Notice("worker 3 is lost"))
    assert capsys.readouterr().out == "worker 3 is lost\n"


def store_with(path: Path, standing: Standing | None) -> Path:
    """A store whose run last told ``standing``."""
    plan = Plan(load_recipe("tiny-gpt2"), Inputs("m", "d"))
    with Store.open(path, plan.identity) as store:
        one = result(TRIALS[0], record(TRIALS[0]))
        store.put(one.trial, one.record, 1.0, one.environment)
        if standing is not None:
            store.write("status.json", json.dumps(standing.to_dict()))
    return path


def run(*arguments: str | Path):
    return CliRunner().invoke(app, ["status", *map(str, arguments)])


def test_a_run_that_ended_says_how(tmp_path):
    told = run(store_with(tmp_path / "done", replace(STANDING, over="done"))).output
    assert told.splitlines()[:2] == [
        "mini: ended",
        "3 of 8 trials have ended (2 done, 1 error in this run, 1:30)",
    ]
    assert "sgd 1 42: error: RuntimeError: no" in told
    assert "adan" not in told
    told = run(store_with(tmp_path / "term", replace(STANDING, over="SIGTERM"))).output
    assert "mini: ended by SIGTERM; the same command goes on" in told
    failed = replace(STANDING, over="error: worker 1 could not start")
    told = run(store_with(tmp_path / "failed", failed)).output
    assert "mini: failed: worker 1 could not start" in told
    told = run(store_with(tmp_path / "gone", STANDING)).output
    assert "mini: its process is gone, and said nothing; the same command goes on" in told


def test_what_the_run_before_said_is_no_word_of_the_one_that_starts(tmp_path):
    """While it loads, which takes minutes with a large model."""
    path = store_with(tmp_path / "store", replace(STANDING, over="SIGTERM"))
    with Store.open(path, Store.read(path).identity):
        told = run(path).output
        assert told.startswith("mini: a run is starting; this is of the one before")
        assert json.loads(run(path, "--json").output)["state"] == "starting"
    assert json.loads(run(path, "--json").output)["state"] == "SIGTERM"


def test_asking_for_the_status_keeps_no_run_from_starting(tmp_path):
    """Who asks holds the store's lock for a moment."""
    path = store_with(tmp_path / "store", STANDING)
    identity = Store.read(path).identity
    with open(path / "lock", "rb") as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, [asked, fcntl.LOCK_UN]).start()
        with Store.open(path, identity) as store:
            assert len(store.results) == 1


def test_what_is_no_store_or_has_no_word_is_said(tmp_path):
    assert "holds no store" in run(tmp_path).output
    store = store_with(tmp_path / "old", None)
    told = run(store)
    assert told.exit_code == 2
    assert "has no status.json (trials in it: 1)" in told.output
    (store / "status.json").write_text("{")
    assert "damaged" in run(store).output
    assert "--follow and --json" in run(store, "--follow", "--json").output


def test_clock_reads_as_people_do():
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


# Starts a leaderboard of its own.
@pytest.mark.slow
def test_another_terminal_sees_what_runs_and_that_it_was_ended(tmp_path):
    """While it runs: step and loss; after SIGTERM: how it ended; --follow ends with it."""
    recipe = write_recipe(tmp_path, "adamw", "lion", max_steps=10**6)
    store = tmp_path / "store"
    process = start_leaderboard(recipe, "--store", store)
    try:
        end = time.monotonic() + 60
        while not (store / "status.json").exists() or not read_status(store).standing.running:
            assert time.monotonic() < end
            time.sleep(0.2)
        time.sleep(3)
        told = json.loads(run(store, "--json").output)
        assert (told["state"], told["pid"], told["planned"]) == ("running", process.pid, 2)
        (running,) = told["running"]
        assert running["name"] == "adamw 0.001 42"
        assert running["step"] > 1
        assert 0 < running["loss"] < 10
        assert told["age_s"] < 10
        lines = run(store).output.splitlines()
        assert lines[0] == f"mini: running on {os.uname().nodename} (process {process.pid})"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.communicate()
    assert run(store, "--follow").output.startswith("mini: ended by SIGTERM")
