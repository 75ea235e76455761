"""Trials on several processes: what one process gives, and no trace of those that went wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from leaderboard_setup import Listed, leaderboard, start_leaderboard, trials_of, write_recipe

from optbench_llm.leaderboard.executor import Finished
from optbench_llm.leaderboard.local import LocalExecutor
from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.leaderboard.workbench import Workbench
from optbench_llm.run_record import RunRecord

# Each group of processes takes about ten seconds to load torch, model and data.
pytestmark = pytest.mark.slow

FAULTY = ("OutOfMemory", "Killed", "Hanging")
ROWS = ["adamw", "lion", *(f"{{spec: 'faulty_optimizers:{name}', lr: 0.01}}" for name in FAULTY)]
TIME_LIMIT_S = 12
#: A variable that all processes of this file's boards inherit.
MARK = "OPTBENCH_TEST_BOARD"


def survivors(mark: str) -> list[psutil.Process]:
    """The processes of a board that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def ended(mark: str, seconds: float = 10) -> bool:
    """Whether all processes of a board are gone in time."""
    end = time.monotonic() + seconds
    while survivors(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return not survivors(mark)


class Board:
    """Trials of a recipe, run without a store so that one of them can run twice."""

    def __init__(self, folder: Path) -> None:
        recipe = load_recipe(str(write_recipe(folder, *ROWS)))
        plan = make_plan(override(recipe, {"processes_per_trial": 2}))
        self.trials = {
            trial.spec.partition(":")[2] or trial.spec: trial for trial in trials_of(plan)
        }
        self.folder = folder
        with Store.open(folder / "store", plan.identity) as store:
            self.setup = worker_setup(plan, store.scratch_folder("workers"), untouched=True)
        Path(self.setup["scratch"]).mkdir()

    def run(self, *names: str) -> list[Finished]:
        trials = [self.trials[name] for name in names]
        executor = LocalExecutor(
            self.setup, workers=1, log_folder=self.folder, processes=2, trial_timeout_s=TIME_LIMIT_S
        )
        return [event for event in executor.run(Listed(trials)) if isinstance(event, Finished)]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return Board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def finished(board: Board) -> dict[str, Finished]:
    """Two good trials; three that fail; between them one of the good ones in fresh processes."""
    order = ["adamw", "lion", "OutOfMemory", "lion", "Killed", "Hanging"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv(MARK, str(board.folder))
        events = board.run(*order)
    order[3] = "lion in fresh processes"
    return dict(zip(order, events, strict=True))


def alone(board: Board, trial: TrialSpec) -> RunRecord:
    """The record of the same trial on one process, here."""
    setup = {**board.setup, "threads": 1, "processes": 1, "untouched": False}
    bench = Workbench(setup)
    return bench.run(trial.to_dict(), lambda step, loss: None)


def test_two_processes_give_what_one_does(board, finished):
    """The same batches, tokens and evaluation, divided; equal up to the noise of fp32."""
    found, expected = finished["adamw"].record, alone(board, board.trials["adamw"])
    assert found.status == "done", found.reason
    assert found.curves.losses == pytest.approx(expected.curves.losses, rel=1e-5)
    assert found.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    assert (found.tokens, found.steps) == (expected.tokens, expected.steps)


def test_warm_processes_give_what_fresh_ones_do(finished):
    """Bit for bit, though the process group is used again."""
    warm, fresh = finished["lion"].record, finished["lion in fresh processes"].record
    assert warm.curves.losses == fresh.curves.losses
    assert warm.eval_loss == fresh.eval_loss


def test_what_one_process_raises_is_the_row(finished):
    """Not what the others say, which wait for it, and not the exit code."""
    record = finished["OutOfMemory"].record
    assert record.status == "oom"
    assert "allocate memory" in (record.reason or "")
    assert finished["OutOfMemory"].wall_s < TIME_LIMIT_S


def test_a_killed_process_is_the_row(finished):
    """The signal, not the lost connection that it leaves the others."""
    record = finished["Killed"].record
    assert (record.status, record.reason) == (
        "error", "worker killed by SIGKILL; see worker-1.log"
    )  # fmt: skip
    assert finished["Killed"].wall_s < TIME_LIMIT_S


def test_a_hanging_process_ends_at_the_time_limit(board, finished):
    """With the others, and nothing is left of any trial."""
    record = finished["Hanging"].record
    assert (record.status, record.steps) == ("timeout", 2)
    assert ended(str(board.folder))


def test_kill_9_of_the_leaderboard_leaves_no_process(tmp_path):
    """Neither torchrun's nor those that it started."""
    recipe = write_recipe(tmp_path, "adamw", max_steps=1_000_000)
    process = start_leaderboard(
        recipe, "--store", tmp_path / "store", "--processes-per-trial", "2",
        environment={MARK: str(tmp_path)},
    )  # fmt: skip
    log = tmp_path / "store" / "worker-1.log"
    while not (log.exists() and "--- adamw" in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    assert len(survivors(str(tmp_path))) == 4  # this, torchrun and two workers
    process.kill()
    process.wait()
    assert ended(str(tmp_path))


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    """Before a store is made; both numbers are named."""
    recipe = write_recipe(tmp_path, "adamw")
    done = leaderboard(recipe, "--store", tmp_path / "store", "--processes-per-trial", "3")
    assert done.returncode == 2
    assert "processes_per_trial 3 does not divide training.batch_size 2" in done.stderr
    assert not (tmp_path / "store").exists()


def test_more_processes_than_data_are_refused(board):
    """Each needs a block to train on."""
    with pytest.raises(ValueError, match=r"train split has \d+ blocks, fewer than the 99999 proc"):
        Workbench({**board.setup, "threads": 1, "processes": 99999})
