"""What kill -9, Ctrl-C, SIGTERM and time limits cost: at most the trials that were running."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from leaderboard_setup import rows, start_leaderboard, write_recipe

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.board import run_leaderboard
from optbench_llm.leaderboard.executor import Event, Finished, Stepped
from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.progress import PlainDisplay
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.workbench import is_out_of_memory

HOURS = 1_000_000


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Return when ``what`` is true; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a leaderboard."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "optbench_llm.leaderboard.worker" in " ".join(child.cmdline())
    ]


class KillingDisplay(PlainDisplay):
    """Kills the worker of the trial ``spec`` at its second step, as the system would."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        self._spec = spec
        self.finished: list[Finished] = []

    def show(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.trial.spec == self._spec and event.step == 2:
            (worker,) = workers_of(os.getpid())
            worker.kill()
        if isinstance(event, Finished):
            self.finished.append(event)


# Waits for an overdue trial.
@pytest.mark.slow
def test_a_killed_worker_and_an_overdue_trial_are_rows_and_the_others_go_on(tmp_path):
    """SIGKILL and the time limit each cost one row, which says why and how far it came."""
    recipe = write_recipe(tmp_path, "lion", "adan", max_steps=HOURS, timeout_s=20)
    plan = make_plan(load_recipe(str(recipe)))
    display = KillingDisplay("lion")
    run = run_leaderboard(plan, tmp_path / "store", display)
    reasons = {row.optimizer: (row.status, row.reason) for row in run.board.rows}
    assert reasons["lion"] == ("error", "worker killed by SIGKILL; see worker-1.log")
    assert reasons["adan"][0] == "timeout"
    assert "over the recipe's limit of 20 s after step" in reasons["adan"][1]
    assert len(display.finished[0].record.curves.losses) >= 2
    assert (run.left, run.stopped_by) == (0, None)
    assert workers_of(os.getpid()) == []


@pytest.fixture
def running(tmp_path: Path):
    """A leaderboard in the middle of its second trial: (process, its worker, store)."""
    recipe = write_recipe(tmp_path, "{spec: sgd, lr: 1e18}", "adamw", "lion", max_steps=HOURS)
    store = tmp_path / "store"
    process = start_leaderboard(recipe, "--store", store)
    log = store / "worker-1.log"
    wait_for(lambda: log.exists() and "--- adamw" in log.read_text())
    (worker,) = workers_of(process.pid)
    yield process, worker, store
    process.kill()
    process.wait()


# Starts a leaderboard of its own.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")],
)
@pytest.mark.parametrize("told", ["leaderboard", "worker and leaderboard"])
def test_a_signal_keeps_what_is_finished_and_prints_it(running, number, name, told):
    """Exit code 128 + signal, the finished row, the running trial as interrupted, no worker.

    Slurm tells all processes of a job, and a worker's death may be seen first.
    """
    process, worker, store = running
    if told == "worker and leaderboard":
        worker.send_signal(number)
        time.sleep(0.2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "diverged" in output
    assert f"{name} after step" in output
    assert "2 trials are left to run; the same command continues" in output
    assert {name: row["status"] for name, row in rows(store).items()} == {
        "sgd": "diverged",
        "adamw": "interrupted",
    }
    assert not worker.is_running()


# Starts a leaderboard of its own.
@pytest.mark.slow
def test_kill_9_loses_only_the_running_trial_and_leaves_no_worker(running):
    """The worker notices that its parent is gone; the store opens again with the finished row."""
    process, worker, store = running
    process.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 20)
    assert {name: row["status"] for name, row in rows(store).items()} == {"sgd": "diverged"}
    plan = make_plan(load_recipe(str(store.parent / "mini.yaml")))
    with Store.open(store, plan.identity) as again:
        assert [trial.spec for trial in Agenda(plan, again.by_id).missing()] == ["adamw", "lion"]
        assert [path.name[:4] for path in (store / "trials").iterdir()] == ["sgd-"]


def test_running_out_of_memory_is_told_from_other_errors():
    """torch's CPU allocator says so in a plain RuntimeError."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
