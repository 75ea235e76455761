"""A tuned board with real workers: killed and gone on with, it is that of one quiet run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from leaderboard_setup import leaderboard, start_leaderboard, write_recipe

# Some fifty trials, twice.
pytestmark = pytest.mark.slow

ROWS = ("adamw", "lion")
#: What differs from run to run: times, memory, and what they are told from.
OF_COSTS = (
    "tokens_per_s", "optimizer_step_ms", "first_step_ms", "compile_s", "peak_mem_bytes",
    "train_wall_s", "eval_wall_s", "loss_at_equal_time",
)  # fmt: skip


def board(store: Path) -> dict[str, Any]:
    """What ``leaderboard.json`` says, without what differs from run to run."""
    values = json.loads((store / "leaderboard.json").read_text())
    values.pop("environment")
    values["rows"] = [{k: v for k, v in r.items() if k not in OF_COSTS} for r in values["rows"]]
    return values


def trials(store: Path) -> set[str]:
    return {path.name for path in (store / "trials").glob("[!.]*")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("recipe"), *ROWS)
    text = path.read_text().replace("seeds: [42]", "track: tuned\nbaseline_budgets: [2]")
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def quiet(recipe: Path) -> Path:
    """The store of a board that one worker ran without a break."""
    store = recipe.parent / "quiet"
    run = leaderboard(recipe, "--store", store)
    assert run.returncode == 0, run.stdout + run.stderr
    return store


def test_every_row_of_a_tuned_board_is_done_and_judged(quiet):
    """Three rows, the baseline's second among them, with all that the track adds."""
    found = board(quiet)
    assert [row["finished"] for row in found["rows"]] == [[5, 5]] * 3
    assert {row["label"] for row in found["rows"]} == {"adamw", "adamw A/A", "lion"}
    assert found["aa"]["rows"] == ["adamw", "adamw A/A"]
    for row in found["rows"]:
        assert len(row["search"]) == 8
        assert row["rank_interval"] is not None
        assert row["test_loss_interval_records"] is not None
        assert (row["difference"] is None) is (row["label"] == "adamw")


def test_kills_stops_and_another_number_of_workers_leave_the_same_board(recipe, quiet, tmp_path):
    """kill -9, then SIGTERM, then to the end: the same trials, and the table to the last digit."""
    store = tmp_path / "store"
    for number, ended in ((signal.SIGKILL, 3), (signal.SIGTERM, 12)):
        process = start_leaderboard(recipe, "--store", store, "--workers", "2")
        end = time.monotonic() + 120
        while not store.exists() or len(trials(store)) < ended:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "no trial ended in time"
            time.sleep(0.1)
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    run = leaderboard(recipe, "--store", store, "--workers", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert trials(store) == trials(quiet)
    assert board(store) == board(quiet)
