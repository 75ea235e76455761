"""A board that is stopped again and again, in any way, is the board of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from leaderboard_setup import leaderboard, rows, start_leaderboard, write_recipe

from optbench_llm.leaderboard.store import Store
from optbench_llm.status_page import read_status

# Starts many leaderboards.
pytestmark = pytest.mark.slow

#: How often a board is stopped; a check by hand takes 20.
MOMENTS = int(os.environ.get("OPTBENCH_MOMENTS", "3"))
SPECS = (
    "adamw", "lion", "sgd", "adan", "lamb", "rmsprop", "adamax", "nadam", "radam", "adagrad",
    "adabound", "yogi", "adabelief", "signum", "qhm", "laprop",
)[: 5 + MOMENTS]  # fmt: skip
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
#: After a start; loading takes some of them.
SECONDS = {"local": (5, 12), "ray": (9, 20)}
TIMES = (
    "tokens_per_s", "optimizer_step_ms", "first_step_ms", "peak_mem_bytes", "train_wall_s",
    "eval_wall_s", "compile_s", "loss_at_equal_time",
)  # fmt: skip


def table(store: Path) -> dict[str, dict[str, Any]]:
    """What a board says of its rows, but for what a run's speed decides."""
    return {
        name: {key: value for key, value in row.items() if key not in TIMES}
        for name, row in rows(store).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and, beside it, the store of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder, *SPECS, max_steps=60)
    assert leaderboard(recipe, "--store", folder / "store", "--workers", "2").returncode == 0
    return recipe


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest):
    """The options of each executor."""
    if request.param == "local":
        yield "local", ("--workers", "2")
        return
    ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield "ray", ("--executor", "ray", "--ray-address", cluster.address)
    cluster.shutdown()


def test_the_table_is_that_of_an_undisturbed_run(undisturbed, executor, tmp_path):
    """SIGTERM, Ctrl-C and kill -9 at random moments: nothing is lost, and nothing runs twice."""
    name, options = executor
    chance = random.Random(f"{name} {MOMENTS}")
    store = tmp_path / "store"
    told, stops = [], 0
    for moment in range(MOMENTS):
        number = SIGNALS[moment % len(SIGNALS)]
        process = start_leaderboard(undisturbed, "--store", store, *options)
        try:
            process.wait(chance.uniform(*SECONDS[name]))
        except subprocess.TimeoutExpired:
            stops += 1
            process.send_signal(number)
        output, _ = process.communicate(timeout=90)
        told.append(f"{number.name} {process.returncode}: {output[-300:]}")
        if number != signal.SIGKILL:
            assert process.returncode in (0, 128 + number), told[-1]
        if process.returncode == 0:
            break
    assert stops, "nothing was ever stopped"
    last = leaderboard(undisturbed, "--store", store, *options)
    assert last.returncode == 0, last.stdout + last.stderr
    assert table(store) == table(undisturbed.parent / "store")
    held, expected = Store.read(store), Store.read(undisturbed.parent / "store")
    assert held.by_id.keys() == expected.by_id.keys()
    for id, result in expected.by_id.items():
        assert held.by_id[id].curves() == result.curves(), result.trial.spec
    begun = sum(log.read_text().count("--- ") for log in store.glob("worker-*.log"))
    # At a stop each of two workers loses what it runs, and no more.
    assert begun <= len(SPECS) + 2 * stops, told
    assert read_status(store).state == "done"
    assert not [path.name for path in (store / "trials").iterdir() if path.name[0] == "."]
