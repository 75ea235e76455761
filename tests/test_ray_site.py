"""Asking a Ray cluster for what it does not have, or for a cluster that is not there."""

from __future__ import annotations

import socket
import sys

import pytest

from optbench_llm.leaderboard.placement import Placement
from optbench_llm.leaderboard.ray_site import _share, connected
from optbench_llm.leaderboard.ray_workers import Share, _other_versions

CPUS, GPUS = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "processes", "cpus", "gpus", "expected", "room"),
    [
        ([CPUS, CPUS], 1, None, None, Share(1, 0), 16),
        ([CPUS], 1, 3, None, Share(3, 0), 2),
        ([CPUS, GPUS], 1, None, None, Share(1, 1), 2),
        ([GPUS, GPUS], 2, None, None, Share(2, 2), 2),
        ([GPUS], 1, None, 0.5, Share(1, 0.5), 4),
        ([GPUS], 1, None, 0.2, Share(1, 0.2), 8),  # ten shares of GPUs, and eight cores
        ([{"CPU": 64.0, "GPU": 2.0}], 1, None, 0.2, Share(1, 0.2), 10),
        ([GPUS], 1, None, 0.4, Share(1, 0.4), 4),  # no trial lies on two GPUs
        ([GPUS], 1, 4, 0.0, Share(4, 0), 2),
    ],
)
def test_a_trial_takes_a_gpu_and_a_core_for_each_process(
    nodes, processes, cpus, gpus, expected, room
):
    """Where there are GPUs; the room is what all nodes have for whole trials."""
    share = _share(nodes, processes, cpus, gpus)
    assert share == expected
    assert sum(share.room_in(node) for node in nodes) == room


@pytest.mark.parametrize(
    ("nodes", "processes", "gpus", "message"),
    [
        ([{"CPU": 8.0, "GPU": 1.0}], 2, 2, r"takes 2 CPUs and 2 GPUs, .*CPU: 8, GPU: 1\)"),
        ([GPUS], 1, 2, r"--gpus-per-trial 2: .*give --processes-per-trial 2"),
        ([GPUS], 2, 1, r"2 processes of a trial cannot share GPUs"),
        (
            [CPUS],
            1,
            1,
            r"1 CPU and 1 GPU, and no node .* has as much \(CPU: 8, GPU: 0\)",
        ),
    ],
)
def test_what_no_node_has_is_refused_with_what_there_is(nodes, processes, gpus, message):
    with pytest.raises(ValueError, match=message):
        _share(nodes, processes, None, gpus)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "expected auto, local or HOST:PORT"),
        ("head", "expected auto, local or HOST:PORT"),
        ("head:port", "expected auto, local or HOST:PORT"),
    ],
)
def test_an_address_of_another_form_is_refused(address, message):
    with pytest.raises(ValueError, match=message), connected(address):
        pass


def test_an_address_that_does_not_answer_is_said_to_at_once():
    """Ray itself would try for a minute."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"{address}: nobody answers"), connected(address):
        pass


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r'pip install "optbench-llm\[ray\]"'),
        Placement("ray").open(1),
    ):
        pass


def test_options_of_a_cluster_are_refused_without_one():
    with pytest.raises(ValueError, match="--ray-address: is for --executor ray"):
        Placement(ray_address="auto").open(1)
    with pytest.raises(ValueError, match="--executor 'slurm': expected local or ray"):
        Placement("slurm").open(1)


def test_a_node_of_other_versions_is_told_and_a_build_for_gpus_is_none(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "transformers": "5.24.0"}
    monkeypatch.setattr(
        "optbench_llm.leaderboard.ray_workers.describe_environment", lambda: {"versions": versions}
    )
    alike = {"torch": "2.13.0+cu130", "transformers": "5.24.0"}
    assert _other_versions({"versions": alike}) == ""
    other = {"torch": "2.12.0", "transformers": "5.24.0"}
    assert _other_versions({"versions": other}) == "torch 2.12.0 there, 2.13.0+cpu here"
