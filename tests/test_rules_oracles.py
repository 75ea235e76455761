"""Every rule against its float64 oracle: eager, in pieces, compiled, in fp32 and in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import compiled_shapes, deviation, distance, is_companion, oracle_paths
from oracles.inputs import parameter
from oracles.proof import Shape

import optbench_llm as ob
from optbench_llm.engine import compiled, shortcuts
from optbench_llm.rules import newton_schulz
from optbench_llm.rules.projection import some_channel_is_aligned

FP32_TOLERANCE = 1e-5
FLOAT64_TOLERANCE = 1e-10
#: What five steps of Newton-Schulz in bfloat16 may be off.
BFLOAT16_TOLERANCE = 0.06
EVERY_CASE = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name, cases in CASES.items()
    for number, case in enumerate(cases)
]
SCHEDULE_FREE = [
    name for name in CASES if ob.optimizer_info(name).rule_class().evaluation_point is not None
]


def test_every_rule_of_ours_has_an_oracle_and_cases():
    """A row of the catalog that runs our own code cannot go without a reference."""
    ours = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule]
    assert sorted(PROOFS) == ours


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_cases_name_every_hyperparameter_off_its_default_in_some_case(name, case):
    """A hyperparameter that every case leaves at its default would be compared with nothing."""
    defaults = {k: v for k, v in ob.optimizer_info(name).defaults.items() if not is_companion(k)}
    assert case.keys() == defaults.keys()
    for key, default in defaults.items():
        assert any(other[key] != default for other in CASES[name]), key


def _changes(value: Any) -> list[Any]:
    """The value changed: each number of a tuple by itself."""
    if isinstance(value, tuple):
        return [(*value[:i], value[i] / 2, *value[i + 1 :]) for i in range(len(value))]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    return [value / 2 if value else 0.5]


@pytest.mark.parametrize("name", CASES)
def test_cases_feel_every_hyperparameter(name):
    """Each hyperparameter, changed in the oracle, moves some case by more than the tolerance."""
    shapes = PROOFS[name].shapes
    starts = [parameter(shape.sizes, index) for index, shape in enumerate(shapes)]
    paths = [oracle_paths(name, case, shapes) for case in CASES[name]]
    ignored = {"k"} if ob.optimizer_info(name).rule_class().observe else set()
    for key in CASES[name][0].keys() - ignored - set(PROOFS[name].unfelt):
        for position in range(len(_changes(CASES[name][0][key]))):
            moved = max(
                distance(other, path, start)
                for case, known in zip(CASES[name], paths, strict=True)
                for other, path, start in zip(
                    oracle_paths(name, {**case, key: _changes(case[key])[position]}, shapes),
                    known,
                    starts,
                    strict=True,
                )
            )
            assert moved > 10 * FP32_TOLERANCE, (key, position)


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
@pytest.mark.usefixtures("newton_schulz_in_fp32")
def test_eager_fp32_agrees_with_the_oracle(name, case):
    """20 steps, 0-dim to 3-D and transposed parameters, gradients that come and go, three lrs."""
    assert deviation(name, case) < FP32_TOLERANCE


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_eager_float64_agrees_with_the_oracle(name, case):
    """In float64 nothing but the mathematics is left to differ."""
    assert deviation(name, case, dtype=torch.float64) < FLOAT64_TOLERANCE


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_pieces_agree_with_the_oracle(name, case, monkeypatch):
    """Parameters cut into many pieces: partial sums add up, scalar slots move once a step."""
    monkeypatch.setattr("optbench_llm.engine.pieces.PIECE_ELEMENTS", 4)
    assert deviation(name, case, dtype=torch.float64) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("name", ["lamb", "adamp"])
def test_parameters_of_several_real_pieces_agree_with_the_oracle(name):
    """The engine's own piece size, with a last piece that is not full."""
    shapes = (Shape((2, 70_000)),)
    assert deviation(name, CASES[name][0], shapes=shapes) < FP32_TOLERANCE


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
@pytest.mark.parametrize("name", ["adamp", "sgdp"])
def test_shortcuts_agree_with_the_oracle(name, engine, case, monkeypatch):
    """A look at two rows finds the weight of some steps without a projection by channel."""
    rule = ob.optimizer_info(name).rule_class()
    answers = []

    def shortcut(*rows):
        answers.append(bool(found := some_channel_is_aligned(*rows)))
        return found

    monkeypatch.setattr(rule, "shortcut", staticmethod(shortcut))
    monkeypatch.setattr(shortcuts, "FROM_ELEMENTS", 1)
    monkeypatch.setattr(shortcuts, "ROWS", 2)
    shapes = (Shape((5, 6)), Shape((6, 4), transposed=True))
    found = deviation(name, CASES[name][case], shapes=shapes, engine=engine)
    assert found < FP32_TOLERANCE
    assert {*answers} == ({True, False} if case == 0 else {False})


@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
@pytest.mark.parametrize("case", CASES["adahessian"])
def test_adahessian_steps_without_channels(case, engine, monkeypatch):
    """They are for its curvature alone: steps are taken by vectors."""
    monkeypatch.setattr(shortcuts, "FROM_ELEMENTS", 1)
    assert deviation("adahessian", case, engine=engine) < FP32_TOLERANCE


@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
@pytest.mark.parametrize("name", ["muon", *slow("scion")])
def test_newton_schulz_in_bfloat16_stays_near_the_oracle(name, engine, monkeypatch):
    """As it runs where there are instructions for it: within some percent, and not exactly."""
    monkeypatch.setattr(newton_schulz, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})
    found = deviation(name, CASES[name][0], shapes=compiled_shapes(name), engine=engine)
    assert FP32_TOLERANCE < found < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("name", ["adamw", *slow("adamp")])
def test_compiled_transposed_and_scalar_parameters_agree_with_the_oracle(name):
    """Layouts other than row-major compile too."""
    shapes = (Shape((6, 9), transposed=True), Shape(()))
    found = deviation(name, CASES[name][0], shapes=shapes, engine="compiled")
    assert found < FP32_TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_evaluates_at_the_average(name, dtype):
    """In evaluation mode the parameters are the oracle's x; going there and back is exact."""
    tolerance = FP32_TOLERANCE if dtype is torch.float32 else FLOAT64_TOLERANCE
    assert deviation(name, CASES[name][0], dtype=dtype, evaluate=True) < tolerance
