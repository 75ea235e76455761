"""Programs on two processes: the same steps as on one with the same batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddp_programs import SETTINGS, train
from training_setup import assert_same_weights, tiny_gpt2, weights

SCRIPT = str(Path(__file__).with_name("ddp_programs.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process and what two left."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    command = [sys.executable, *TORCHRUN, SCRIPT, str(two), *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    for spec in SETTINGS:
        train(one, spec)
    return one, two


@pytest.mark.parametrize("spec", SETTINGS)
def test_two_processes_step_as_one_with_the_same_batch(folders, spec):
    """Both hold the same bits, those of one process up to the order of sums.

    That order is all that differences of gradients differ in too, and they magnify it.
    """
    one, two = folders
    alone = torch.load(one / f"{spec}-0.pt", weights_only=True)
    first, second = (torch.load(two / f"{spec}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert alone["passes"] == first["passes"] == second["passes"]
    start = weights(tiny_gpt2())
    assert_same_weights(first["weights"], second["weights"])
    away = moved = 0.0
    for name, value in first["weights"].items():
        away += (value - alone["weights"][name]).norm().item() ** 2
        moved += (alone["weights"][name] - start[name]).norm().item() ** 2
    assert away**0.5 < 1e-2 * moved**0.5
