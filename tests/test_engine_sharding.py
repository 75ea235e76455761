"""Sharded parameters (FSDP2) on two processes: every row steps as it does on one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sharded_steps import (
    UNALIGNED,
    UNALIGNED_WIDTH,
    WIDTH,
    first_half,
    main,
    model_of_odd_sizes,
    second_half,
    train,
)
from torch import Tensor
from two_processes import on_two

import optbench_llm as ob

# Steps every row four times, on two processes.
pytestmark = pytest.mark.slow

ROWS = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule is not None]
FOREIGN = ["lion-8bit"]
WRAPPED = ["lookahead+muon", "schedulefree+lamb", "sam+prodigy"]
LOW_BITS = ["adamw@bf16", "adamw@int8", "lamb@int8", "prodigy@bf16", "novograd@bf16"]
SPECS = [*ROWS, *WRAPPED, *LOW_BITS, *UNALIGNED]
COMPILED = {
    "compiled": ["adamw-bf16", "adamw@int8", "lamb@bf16", "prodigy"],
    # The interpreter takes a second for what a GPU does in a millisecond.
    "triton": ["adamw@int8", "prodigy"],
}
#: Sums over parts are added in another order: how far weights may be off, over the way moved.
TOLERANCE = 2e-6
#: Where the last bit of a sum decided to which neighbour in bf16 one element is rounded.
TOLERANCES = {"novograd@bf16": 2e-5}


def outcomes(folder: Path, specs: list[str], engine: str) -> Path:
    """Run all specs on two processes, over first halves that one process made here."""
    for spec in specs:
        torch.save(first_half(spec, engine), folder / f"{spec}-alone.pt")
    on_two(main, folder, engine, specs)
    return folder


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of all specs."""
    return outcomes(tmp_path_factory.mktemp("eager"), SPECS, "eager")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """For an engine that compiles, what two processes left of the specs that it compiles here."""

    @cache
    def made(engine: str) -> Path:
        return outcomes(tmp_path_factory.mktemp(engine), COMPILED[engine], engine)

    return made


def read(folder: Path, name: str) -> dict[str, Any]:
    found = torch.load(folder / f"{name}.pt", weights_only=True)
    assert "error" not in found, found["error"]
    return found


def both(folder: Path, spec: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the two processes found."""
    return read(folder, f"{spec}-0"), read(folder, f"{spec}-1")


def tolerance(spec: str) -> float:
    return TOLERANCES.get(spec, TOLERANCE)


@cache
def alone(spec: str) -> dict[str, Any]:
    """What one process finds."""
    return train(spec, "eager")


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(found[name], value) for name, value in expected.items())


def away(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """How far from the expected weights, over the way that these have come."""
    begun = dict(model_of_odd_sizes(len(expected["transformer.ln_f.weight"])).named_parameters())
    off = sum((found[name] - value).square().sum() for name, value in expected.items())
    moved = sum((value - begun[name]).square().sum() for name, value in expected.items())
    return float(off / moved) ** 0.5


@pytest.mark.shows("FSDP2")
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in UNALIGNED])
def test_two_processes_step_as_one(eager, spec):
    """But for the order of the sums that a rule measures; in evaluation mode too.

    Otherwise for the last bit of functions that are computed alone where no vector is full.
    """
    first, second = both(eager, spec)
    expected = alone(spec)
    measures = ob.create_optimizer(model_of_odd_sizes(32), spec).rule.measures
    for point in ("trained", "evaluated"):
        assert same(first[point], second[point])
        assert away(first[point], expected[point]) < (tolerance(spec) if measures else 1e-8)


@pytest.mark.parametrize("spec", SPECS)
def test_a_resumed_run_is_the_uninterrupted_one(eager, spec):
    """On as many processes, bit for bit: 8-bit codes, steps that waited, and what is put aside."""
    for found in both(eager, spec):
        assert same(found["after half"], found["trained"])


@pytest.mark.shows("resume on another number of processes")
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in UNALIGNED])
def test_another_number_of_processes_goes_on(eager, spec):
    """From one to two, and from two to one."""
    first, second = both(eager, spec)
    expected = alone(spec)["trained"]
    assert same(first["after alone"], second["after alone"])
    assert away(first["after alone"], expected) < tolerance(spec)
    on_one = second_half(spec, "eager", read(eager, f"{spec}-half"))
    assert away(on_one, expected) < tolerance(spec)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in UNALIGNED])
def test_the_state_is_divided(eager, spec):
    """Together the processes hold what one would, and some single numbers twice."""
    parts = sum(found["state_bytes"] for found in both(eager, spec))
    largest = max(found["state_bytes"] for found in both(eager, spec))
    optimizer = ob.create_optimizer(model_of_odd_sizes(WIDTH), spec)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    by_programs = 4 * sum(p.numel() for p in params) * len(optimizer.rule.kept_by_program)
    whole, numbers = optimizer.planned_state_bytes() - by_programs, 8 * len(params)
    assert whole <= parts <= whole + numbers
    assert largest <= 0.75 * whole + numbers


def test_parts_that_end_within_blocks_stay_in_32_bits(eager):
    """One process goes on from them in 8 bits, and they from 8 bits."""
    first, second = both(eager, "lion@int8")
    assert same(first["trained"], second["trained"])
    assert same(first["trained"], train("lion", "eager", UNALIGNED_WIDTH)["trained"])
    for found in (
        first["after alone"],
        second_half("lion@int8", "eager", read(eager, "lion@int8-half")),
    ):
        assert 0 < away(found, first["trained"]) < 0.1


def test_whole_matrices_are_stepped_in_8_bits_wherever_they_are_cut(eager):
    """Their owner has them whole."""
    first, second = both(eager, "muon@int8")
    expected = alone("muon@int8")["trained"]
    assert same(first["trained"], second["trained"])
    assert same(first["trained"], expected)
    assert same(first["after alone"], expected)


@pytest.mark.parametrize(
    ("engine", "spec"), [(engine, spec) for engine in COMPILED for spec in COMPILED[engine]]
)
def test_compiled_code_steps_parts_too(folders, engine, spec):
    """With the random bits of their positions in the whole."""
    if engine == "triton":
        pytest.importorskip("triton", reason="Triton has no wheel for this machine")
    folder = folders(engine)
    first, second = both(folder, spec)
    assert same(first["trained"], second["trained"])
    assert away(first["trained"], train(spec, engine)["trained"]) < tolerance(spec)
    assert same(first["after half"], first["trained"])


@pytest.mark.shows("FSDP2")
@pytest.mark.parametrize("name", FOREIGN)
def test_a_provider_that_cannot_step_parts_is_refused(eager, name, record_property):
    """As its optimizer is made, with what to use instead."""
    for rank in (0, 1):
        said = read(eager, f"refusals-{rank}")[name]
        assert re.search(f"'{name}'.*bitsandbytes.*FSDP2.*lion@int8.*DDP", said)
    record_property("refused", said)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("saves", "'torch:AdamW'.*state of the first process alone.*save_only_model=True"),
        ("partial", r"'adamw'.*\(4, 4\) has the placements.*Partial.*without tensor parallelism"),
        ("gradient", r"gradient of a parameter of shape \(4, 4\) lies.*Replicate.*expected.*Shard"),
        ("model", "slot 'exp_avg' of parameter 0 has the shape.*the state of another model"),
    ],
)
def test_what_cannot_be_is_refused(eager, case, words):
    """By name, before anything has moved."""
    for rank in (0, 1):
        assert re.search(words, read(eager, f"refusals-{rank}")[case])
