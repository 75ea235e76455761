"""torch.distributed.checkpoint under FSDP2: any number of processes goes on from any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dcp_steps import WAYS, act, main, warm_up, ways_between
from sharded_steps import UNALIGNED_WIDTH
from two_processes import on_processes

import optbench_llm as ob

# Begins and goes on with runs in groups of one, two and three processes.
pytestmark = pytest.mark.slow

#: Scopes, carried numbers, 8 bits, another point of evaluation, what programs keep. Those that
#: measure nothing step alike on any number of processes.
SPECS = ["adamw", "lamb", "prodigy", "muon", "nadam", "adamw@int8", "adamw-schedulefree",
         "svrg+muon"]  # fmt: skip
#: 0 stands for this process, without a group of processes.
COUNTS = (0, 1, 2, 3)
#: Sums over parts are added in another order.
TOLERANCE = 2e-6
UNALIGNED = "lion@int8"


def everywhere(folder: Path, specs: list[str], counts: tuple[int, ...], *width: int) -> Path:
    """Begin runs on each number of processes, then go on with all of them on each."""
    for what in ("begin", "go on"):
        for count in counts:
            if count:
                on_processes(count, main, what, folder, specs, "eager", *width)
            else:
                act(what, folder, specs, "eager", *width)
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of all specs on all numbers of processes."""
    return everywhere(tmp_path_factory.mktemp("aligned"), SPECS, COUNTS)


@pytest.fixture(scope="module")
def unaligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same where parts end within blocks of 8-bit codes."""
    return everywhere(tmp_path_factory.mktemp("unaligned"), [UNALIGNED], (0, 2), UNALIGNED_WIDTH)


def outcomes(folder: Path, spec: str, count: int) -> list[dict[str, Any]]:
    """What each of so many processes found, by who began and the way of the state."""
    found = []
    for what in ("begin", "go on"):
        for rank in range(max(count, 1)):
            file = folder / f"{spec}, {what}, {rank} of {count}.pt"
            found.append(torch.load(file, weights_only=True) or {})
            assert "error" not in found[-1], found[-1]["error"]
    return found[len(found) // 2 :]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("count", COUNTS)
def test_a_resumed_run_is_the_undisturbed_one(aligned: Path, spec: str, count: int) -> None:
    """On as many processes, bit for bit, weights and state: by name, flat, and by the first."""
    for found in outcomes(aligned, spec, count):
        assert {way: found[f"{count}, {way}"][0] for way in WAYS} == dict.fromkeys(WAYS, True)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("count", COUNTS)
def test_another_number_of_processes_goes_on(aligned: Path, spec: str, count: int) -> None:
    """As if it had begun; but for the order of the sums that a rule measures."""
    measures = ob.create_optimizer(torch.nn.Linear(4, 4), spec).rule.measures
    for found in outcomes(aligned, spec, count):
        ways = {begun: ways_between(begun, count, spec) for begun in COUNTS}
        assert found.keys() == {f"{begun}, {way}" for begun in COUNTS for way in ways[begun]}
        for name, (same, off) in found.items():
            assert off < TOLERANCE if measures else same, name


@pytest.mark.parametrize("count", [0, 2])
def test_parts_that_end_within_blocks_go_on_or_say_why_not(unaligned: Path, count: int) -> None:
    """Files hold 32 bits where parts were cut so, and torch refuses them for 8, and the reverse.

    A whole state is converted where it comes to us whole.
    """
    for found in outcomes(unaligned, UNALIGNED, count):
        assert all(found[f"{count}, {way}"][0] for way in WAYS)
        begun = 2 - count
        for way in ("by name", "flat"):
            said = found[f"{begun}, {way}"]
            assert "exp_avg" in said
            assert "Missing key" in said or "Size mismatch" in said
        if count:
            assert "must match the size" in found[f"{begun}, whole"]
        else:
            assert 0 < found[f"{begun}, whole"][1] < 0.1


def test_processes_agree_whether_a_step_at_lr_0_asks_for_state(tmp_path: Path) -> None:
    """Those whose gradients are zeros step with the others, as when a warm-up begins."""
    on_processes(2, warm_up, tmp_path)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"warm-up, {rank}.pt", weights_only=True) == {1}
