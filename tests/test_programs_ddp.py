"""Programs on two processes, replicated or sharded: the steps of one with the same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ddp_programs import SETTINGS, train, train_all
from two_processes import on_two

# Starts two processes, which train with every program twice.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and what two left."""
    folder = tmp_path_factory.mktemp("programs")
    on_two(train_all, folder)
    for spec in SETTINGS:
        train(folder, spec, "alone")
    return folder


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("spec", SETTINGS)
def test_two_processes_step_as_one_with_the_same_batch(folder, spec, kind):
    """Both hold the same bits, those of one process up to the order of sums.

    Differences of gradients magnify what is lost there.
    """
    alone = torch.load(folder / f"{spec}-alone-0.pt", weights_only=True)
    first, second = (
        torch.load(folder / f"{spec}-{kind}-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert alone["passes"] == first["passes"] == second["passes"]
    for here, there, expected in zip(
        first["weights"], second["weights"], alone["weights"], strict=True
    ):
        assert torch.equal(here, there)
        torch.testing.assert_close(here, expected, rtol=1e-7, atol=1e-9)
