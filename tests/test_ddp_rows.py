"""DDP: every row on two processes takes the steps of one with the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ddp_rows import STEPS, train, train_all
from training_setup import assert_same_weights, tiny_gpt2, weights
from two_processes import on_two

import optbench_llm as ob

# A training run of every row, twice.
pytestmark = pytest.mark.slow

ROWS = ob.list_optimizers()
FOREIGN = [name for name in ROWS if ob.optimizer_info(name).rule is None]
#: How far from one process, over the way moved, where it is more than noise of float64.
TOLERANCES = {
    # Differences of gradients, and divisions by numbers near zero, magnify the noise.
    "adahessian": 1e-5, "laprop": 1e-5, "came": 1e-6, "adafactor": 1e-6,
    # An element whose update has no clear sign is masked or not: as far off after a change of the
    # starting weights by 1e-15, as SOAP is.
    "cautious-adamw": 2e-2,
    # Each process draws its labels.
    "sophia": 5e-2,
    # Directions that no gradient has yet hold noise, which Adam's normalisation makes steps of.
    "soap": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    on_two(train_all, folder, ROWS)
    return folder


def off(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """How far from the expected weights, over the way that these have come."""
    begun = weights(tiny_gpt2().double())
    off = sum((found[n] - w).square().sum() for n, w in expected.items())
    moved = sum((begun[n] - w).square().sum() for n, w in expected.items())
    return float(off / moved) ** 0.5


@pytest.mark.shows("DDP", "gradient accumulation")
@pytest.mark.parametrize("spec", ROWS)
def test_two_processes_take_the_steps_of_one(tmp_path, folder, spec):
    """Two micro-batches each are one batch of four times the size; both hold the same bits."""
    train(tmp_path, spec)
    alone = torch.load(tmp_path / f"{spec}-0.pt", weights_only=True)
    first, second = (torch.load(folder / f"{spec}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same_weights(first["weights"], second["weights"])
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert off(first["weights"], alone["weights"]) < TOLERANCES.get(spec, 1e-9)


@pytest.mark.shows("resume on another number of processes")
@pytest.mark.parametrize("spec", FOREIGN)
def test_one_process_goes_on_with_a_run_of_two(tmp_path, folder, spec):
    """From a checkpoint of DDP; rules of ours are shown to where they are sharded too."""
    checkpoint = folder / f"output-{spec}" / f"checkpoint-{STEPS // 2}"
    train(tmp_path, spec, checkpoint)
    resumed = torch.load(tmp_path / f"{spec}-0.pt", weights_only=True)
    unbroken = torch.load(folder / f"{spec}-0.pt", weights_only=True)
    assert resumed["losses"] == pytest.approx(unbroken["losses"], rel=1e-3)
    assert off(resumed["weights"], unbroken["weights"]) < 1e-9
