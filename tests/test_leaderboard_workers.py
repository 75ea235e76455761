"""Workers that die, hang or talk nonsense: the board ends, and every trial has a row."""

from __future__ import annotations

import math
import queue
import time
from pathlib import Path

import pytest
from leaderboard_setup import Listed, trials_of

from optbench_llm.leaderboard import process
from optbench_llm.leaderboard.cores import cpu_quota, threads_per_process
from optbench_llm.leaderboard.executor import Event, Finished
from optbench_llm.leaderboard.local import LocalExecutor
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.process import EXITED, WorkerProcess, cause_of_death
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.trial import Inputs

TRIALS = trials_of(Plan(load_recipe("tiny-gpt2"), Inputs("m", "d")))[:3]
# Each start adds a line to the file of starts; what the process does depends on how many there are.
PROGRAM = """
import json, sys, time
setup = json.loads(sys.stdin.readline())
with open(setup["starts"], "a+") as file:
    file.write("x")
    file.seek(0)
    start = len(file.read())
def send(**event):
    print(json.dumps(event), flush=True)
FACTS = dict(device="cpu", device_type="cpu", threads=1, processes=1, steps=3, data="")
def done():
    return dict(status="done", reason=None, optimizer="x", lr=1.0, seed=0, steps=1)
"""
CANNOT_START = "sys.exit(7)"
HANGS = "time.sleep(600)"
STARTS_ONCE = """
if start > 1:
    sys.exit(7)
send(event="ready", facts=FACTS)
sys.stdin.readline()
sys.exit(3)
"""
STARTS_EVERY_OTHER_TIME = """
if start % 2 == 0:
    sys.exit(7)
send(event="ready", facts=FACTS)
sys.stdin.readline()
sys.exit(3)
"""
# Half a second to load; then it answers at once, but for the second trial that it hears of.
HANGS_AT_THE_SECOND = """
time.sleep(0.6)
send(event="ready", facts=FACTS)
for number, line in enumerate(sys.stdin, 1):
    send(event="step", step=1, loss=2.0)
    if number == 2:
        time.sleep(600)
    send(event="result", record=done())
"""
IS_CUT_OFF = "print('{\"event\": \"st', end='', flush=True); sys.exit(3)"
TALKS_NONSENSE = "print('nonsense', flush=True); time.sleep(600)"


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, **limits: float
) -> list[Event]:
    """All events of three trials whose worker is ``program``."""
    monkeypatch.setattr(process, "_WORKER", PROGRAM + program)
    setup = {"untouched": False, "starts": str(folder / "starts")}
    return list(LocalExecutor(setup, 1, folder, **limits).run(Listed(TRIALS)))


def reasons(events: list[Event]) -> list[str]:
    return [event.record.reason or "" for event in events if isinstance(event, Finished)]


def test_workers_that_never_start_end_the_run_with_the_reason(tmp_path, monkeypatch):
    """What no worker can load is the recipe's fault, or the machine's: no board of errors."""
    with pytest.raises(ValueError, match="worker 1 could not start: worker ended with exit code 7"):
        run(tmp_path, monkeypatch, CANNOT_START)


def test_a_worker_that_hangs_while_it_loads_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    """Nobody waits for a worker without a limit."""
    with pytest.raises(ValueError, match=r"worker 1 was not ready after 0\.5 s"):
        run(tmp_path, monkeypatch, HANGS, start_timeout_s=0.5)


def test_when_no_worker_starts_any_more_the_rest_become_rows(tmp_path, monkeypatch):
    """Finished work is kept: one more try, then every remaining trial says why it did not run."""
    events = run(tmp_path, monkeypatch, STARTS_ONCE)
    first, *rest = reasons(events)
    assert first.startswith("worker ended with exit code 3")
    assert len(rest) == 2
    assert all("worker 1 could not start" in reason for reason in rest)
    assert (tmp_path / "starts").read_text() == "xxx"


def test_one_failed_start_is_tried_again(tmp_path, monkeypatch):
    """A passing lack of memory costs no trial."""
    found = reasons(run(tmp_path, monkeypatch, STARTS_EVERY_OTHER_TIME))
    assert len(found) == 3
    assert all(reason.startswith("worker ended with exit code 3") for reason in found)


def test_a_time_limit_is_that_of_one_trial(tmp_path, monkeypatch):
    """Not of its worker, which takes longer than that to load; the others go on."""
    began = time.monotonic()
    events = run(tmp_path, monkeypatch, HANGS_AT_THE_SECOND, trial_timeout_s=0.5)
    took_s = time.monotonic() - began
    finished = [event for event in events if isinstance(event, Finished)]
    assert [event.trial for event in finished] == TRIALS
    assert [event.record.status for event in finished] == ["done", "timeout", "done"]
    overdue = finished[1]
    assert overdue.record.reason == "over the recipe's limit of 0.5 s after step 1"
    assert (overdue.record.steps, overdue.record.curves.losses) == (1, [2.0])
    assert overdue.wall_s >= 0.5
    # Loading, twice, is no trial's time.
    assert sum(event.wall_s for event in finished) <= took_s - 2 * 0.6


@pytest.mark.parametrize("program", [IS_CUT_OFF, TALKS_NONSENSE])
def test_the_end_of_a_worker_is_told_even_after_a_line_that_cannot_be_read(
    tmp_path, monkeypatch, program
):
    """A worker killed while it writes leaves half a line; its parent must not wait for ever."""
    monkeypatch.setattr(process, "_WORKER", PROGRAM + program)
    inbox: queue.Queue = queue.Queue()
    setup = {"threads": 1, "processes": 1, "starts": str(tmp_path / "starts")}
    worker = WorkerProcess(1, setup, inbox, tmp_path / "log", {})
    who, event = inbox.get(timeout=30)
    assert (who, event["event"]) == (worker, EXITED)


def test_a_death_for_lack_of_memory_is_told_from_other_kills(tmp_path, monkeypatch):
    """SIGKILL while the system's count of such kills went up; whatever else the worker told."""
    monkeypatch.setattr(process, "_WORKER", PROGRAM + "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(process, "_oom_kills", iter([3, 4]).__next__)
    setup = {"threads": 1, "processes": 1, "starts": str(tmp_path / "starts")}
    inbox: queue.Queue = queue.Queue()
    worker = WorkerProcess(1, setup, inbox, tmp_path / "log", {})
    _, event = inbox.get(timeout=30)
    told = ("error", "RuntimeError: connection closed by peer")
    status, reason = cause_of_death(event, told, worker.log)
    assert (status, "ran out of memory" in reason) == ("oom", True)


def test_the_users_thread_count_is_respected(monkeypatch):
    """OMP_NUM_THREADS holds for every worker; without it the cores are shared."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process(2) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads_per_process(1000) == 1


def test_a_containers_share_of_time_counts_as_cores(tmp_path):
    """Affinity alone tells a container nothing of its limit."""
    assert cpu_quota(tmp_path) == math.inf
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) == math.inf
