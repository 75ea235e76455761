"""Boards over a real Ray cluster of two nodes: what one machine gives, whatever dies on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from leaderboard_setup import Listed, leaderboard, start_leaderboard, trials_of, write_recipe

from optbench_llm.leaderboard import ray_site, ray_workers
from optbench_llm.leaderboard.executor import Notice
from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.status_page import read_status

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")

# Starts clusters, and every worker loads torch, model and data.
pytestmark = pytest.mark.slow

SPECS = ("adamw", "lion", "sgd", "adan", "lamb", "rmsprop", "adamax")
#: A variable that all workers of this file's boards inherit.
MARK = "OPTBENCH_TEST_RAY"
#: Where the driver and all nodes find ``faulty_optimizers``, as they find a user's own optimizers.
OWN_MODULES = {"PYTHONPATH": str(Path(__file__).parent)}


def wait_for(what: Callable[[], Any], seconds: float = 90) -> None:
    """Until ``what`` is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def workers() -> list[psutil.Process]:
    """The worker processes on all nodes."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == str(os.getpid())
            if ours and "optbench_llm.leaderboard.worker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, each with room for one trial; tests leave it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, str(os.getpid()))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", OWN_MODULES["PYTHONPATH"])
        found = ray_cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        found.add_node(num_cpus=1)
        yield found
        found.shutdown()


def results(store: Path) -> dict[str, tuple[Any, ...]]:
    """What each trial's losses are, to the last bit."""
    return {
        one.trial.folder: (one.record.status, one.record.train_loss, one.record.eval_loss,
                           one.record.test_loss, one.curves().losses)
        for one in Store.read(store).results
    }  # fmt: skip


def done(store: Path) -> int:
    """How many trials a store holds that have ended."""
    if not (store / "store.json").exists():
        return 0
    return sum(result.record.status == "done" for result in Store.read(store).results)


def test_a_lost_node_and_a_killed_driver_leave_the_board_of_one_machine(cluster, tmp_path):
    """Trial by trial, bit for bit; what died with its node ran again; no worker is left."""
    recipe = write_recipe(tmp_path, *SPECS, max_steps=40)
    clustered, local = tmp_path / "clustered", tmp_path / "local"
    arguments = (recipe, "--store", clustered, "--executor", "ray")
    driver = start_leaderboard(*arguments, "--ray-address", cluster.address)
    try:
        # Both nodes run a trial.
        wait_for(lambda: done(clustered) >= 1 and len(read_status(clustered).standing.running) == 2)
        (second,) = cluster.worker_nodes
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: read_status(clustered).standing.by_status.get("interrupted"))
        seen = done(clustered)
        wait_for(lambda: done(clustered) > seen)
        assert read_status(clustered).is_alive
        assert driver.poll() is None
    finally:
        driver.kill()
        told = driver.communicate()[0]
    assert "is lost: " in told, told
    assert "runs again" in told, told
    assert "raylet" not in told, told
    wait_for(lambda: not workers(), 30)
    assert read_status(clustered).state == "gone"
    before = done(clustered)
    assert before < len(SPECS)

    cluster.add_node(num_cpus=1)
    again = leaderboard(*arguments, "--ray-address", cluster.address)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{before} already in" in again.stdout
    assert read_status(clustered).state == "done"
    assert leaderboard(recipe, "--store", local).returncode == 0
    assert results(clustered) == results(local)
    assert len(results(local)) == len(SPECS)
    assert not workers()


def test_failures_on_a_cluster_are_rows_as_they_are_here(cluster, tmp_path):
    """A killed worker, one out of memory and one over its time; the others go on; logs are here."""
    names = ("Killed", "OutOfMemory", "Hanging")
    rows = ["adamw", *(f"{{spec: 'faulty_optimizers:{name}', lr: 0.01}}" for name in names)]
    recipe = write_recipe(tmp_path, *rows, "lion", timeout_s=8)
    store = tmp_path / "store"
    ran = leaderboard(
        recipe, "--store", store, "--executor", "ray", "--ray-address", cluster.address,
        environment=OWN_MODULES,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {r.trial.spec.rpartition(":")[2]: r.record for r in Store.read(store).results}
    assert {spec: record.status for spec, record in found.items()} == {
        "adamw": "done", "lion": "done", "Killed": "error", "OutOfMemory": "oom",
        "Hanging": "timeout",
    }, ran.stdout  # fmt: skip
    assert "worker killed by SIGKILL; see worker-" in (found["Killed"].reason or "")
    logs = "".join(path.read_text() for path in store.glob("worker-*.log"))
    assert all(f"faulty_optimizers:{name}" in logs for name in names)
    assert ran.stderr == ""
    assert not workers()


def test_trials_of_two_processes_have_a_node_of_two_cores(cluster, tmp_path):
    """Where there is one: both processes of a trial are on it, and come to what they do here."""
    recipe = write_recipe(tmp_path, "adamw", "muon", max_steps=10)
    node = cluster.add_node(num_cpus=2)
    try:
        ran = leaderboard(
            recipe, "--store", tmp_path / "clustered", "--processes-per-trial", "2",
            "--executor", "ray", "--ray-address", cluster.address,
        )  # fmt: skip
    finally:
        cluster.remove_node(node)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Ray: 1 worker of 2 CPUs\n" in ran.stdout
    here = leaderboard(recipe, "--store", tmp_path / "local", "--processes-per-trial", "2")
    assert here.returncode == 0, here.stdout + here.stderr
    assert results(tmp_path / "clustered") == results(tmp_path / "local")
    assert [r.record.status for r in Store.read(tmp_path / "local").results] == ["done"] * 2
    assert not workers()


def test_a_gpu_that_no_node_has_is_refused(cluster, tmp_path):
    """With what the cluster has, and before anything is written."""
    recipe = write_recipe(tmp_path, "adamw")
    asked = leaderboard(
        recipe, "--store", tmp_path / "store", "--executor", "ray", "--ray-address",
        cluster.address, "--gpus-per-trial", "1",
    )  # fmt: skip
    assert asked.returncode == 2
    assert "1 CPU and 1 GPU, and no node of the cluster has as much" in asked.stderr
    assert not (tmp_path / "store").exists()


def test_what_a_node_is_told_to_end_runs_again(cluster, tmp_path):
    """Slurm and spot machines send SIGTERM to all on a node; the driver is elsewhere."""
    recipe = write_recipe(tmp_path, "adamw", "lion", "sgd", max_steps=60)
    store = tmp_path / "store"
    driver = start_leaderboard(
        recipe, "--store", store, "--executor", "ray", "--ray-address", cluster.address
    )
    try:
        log = store / "worker-1.log"
        wait_for(lambda: log.exists() and "--- " in log.read_text())
        for worker in workers():
            worker.terminate()
        told = driver.communicate(timeout=120)[0]
    finally:
        driver.kill()
    assert "its worker was ended by SIGTERM; " in told
    assert {r.trial.spec: r.record.status for r in Store.read(store).results} == dict.fromkeys(
        ("adamw", "lion", "sgd"), "done"
    ), told


def test_nodes_of_other_versions_are_left_out_and_named(cluster, tmp_path, monkeypatch):
    """One after the other; when none is left, the board ends with what differs."""
    plan = make_plan(load_recipe(str(write_recipe(tmp_path, "adamw", "lion"))))
    ours = ray_workers.describe_environment()
    ours["versions"] = {**ours["versions"], "transformers": "5.0.0"}
    monkeypatch.setattr(ray_workers, "describe_environment", lambda: ours)
    with ray_site.connected(cluster.address) as site:
        assert (site.workers, site.room) == (2, 2)
        executor = site.executor(
            worker_setup(plan, tmp_path, untouched=False),
            processes=1, log_folder=tmp_path, trial_timeout_s=None,
        )  # fmt: skip
        events = executor.run(Listed(trials_of(plan)))
        left_out: list[str] = []
        with pytest.raises(ValueError, match=r"no node of the cluster can be used: .*5\.0\.0 here"):
            left_out.extend(event.text for event in events if isinstance(event, Notice))
    assert left_out
    assert all("is left out" in text for text in left_out)
