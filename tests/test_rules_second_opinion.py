"""A second opinion on every rule: torch's and transformers' code, and numbers of the authors'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles.comparison import (
    ALL_SHAPES,
    STEPS,
    constant_lr,
    distance,
    make_parameter,
    run_rule,
    set_gradients,
)
from oracles.inputs import curvature_gradient, gradient, parameter
from oracles.second_opinion import (
    TORCH_ROWS,
    TRACES,
    load_trace,
    run_other,
    torch_deviation,
    trace_deviation,
    worst,
)

import optbench_llm as ob

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
TRACE_RUNS = [
    pytest.param(load_trace(path), number, id=f"{path.stem}-{number}")
    for path in TRACES
    for number in range(len(load_trace(path)["runs"]))
]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row[0]}-{i}") for i, row in enumerate(TORCH_ROWS)]
)
def test_torch_agrees(row, dtype):
    """torch.optim steps the same problem to the same place."""
    # torch keeps NAdam's product of momenta in fp32, whatever the parameter.
    tolerance = 1e-7 if (row[0], dtype) == ("nadam", torch.float64) else TOLERANCES[dtype]
    assert torch_deviation(row, dtype) < tolerance


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("beta1", [None, 0.8])
def test_transformers_adafactor_agrees(beta1, dtype):
    """Without relative steps and scaling; transformers' relative lr is at most 0.01, not lr."""
    from transformers.optimization import Adafactor

    shared: dict[str, Any] = {
        "lr": 0.05,
        "eps": (1e-3, 1e-3),
        "clip_threshold": 0.7,
        "beta1": beta1,
        "weight_decay": 0.1,
        "scale_parameter": False,
        "relative_step": False,
    }
    ours = {**shared, "decay_rate": 0.6}
    theirs = run_other(lambda ps: Adafactor(ps, **shared, decay_rate=-0.6), 0.05, dtype)
    paths = run_rule("adafactor", ours, ALL_SHAPES, dtype, "eager")
    assert worst(paths, theirs, ALL_SHAPES) < TOLERANCES[dtype]


#: Our settings of a rule that is fed estimates of the Hessian, their class and arguments. Their
#: SophiaH clips m / h at p, ours m / (rho h) at 1.
FED = {
    "adahessian": (
        {
            "lr": 0.05, "betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.1, "hessian_power": 0.6,
            "spatial_average": False,
        },
        "AdaHessian",
        {
            "lr": 0.05, "betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.1, "hessian_power": 0.6,
        },
    ),
    "sophia-h": (
        {
            "lr": 0.05, "betas": (0.8, 0.9), "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "k": 1,
        },
        "SophiaH",
        {"lr": 0.1, "betas": (0.8, 0.9), "p": 0.5, "eps": 2e-3, "weight_decay": 0.05},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", FED)
def test_pytorch_optimizer_agrees_given_the_same_estimates(name, dtype):
    """Both are fed the same products; how they would make them is another matter."""
    import pytorch_optimizer

    ours, kind, arguments = FED[name]
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(ALL_SHAPES)]
    theirs = getattr(pytorch_optimizer, kind)(params, weight_decouple=True, **arguments)
    paths = run_rule(name, ours, ALL_SHAPES, dtype, "eager", pauses=False, schedule=constant_lr)
    for t in range(1, STEPS + 1):
        set_gradients(params, ALL_SHAPES, t, curvature_gradient, pauses=False)
        estimates = [p.grad for p in params]
        set_gradients(params, ALL_SHAPES, t, gradient, pauses=False)
        theirs.step(hessian=estimates)
        for index, (path, p) in enumerate(zip(paths, params, strict=True)):
            start = parameter(ALL_SHAPES[index].sizes, index)
            found = distance(p.detach().double().numpy(), path[t - 1], start)
            assert found < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("trace", "number"), TRACE_RUNS)
@pytest.mark.usefixtures("newton_schulz_in_fp32")
def test_authors_numbers_are_reproduced(trace, number, dtype):
    """The rule walks the path that the authors' code walked on the same inputs."""
    assert trace_deviation(trace, trace["runs"][number], dtype) < TOLERANCES[dtype]


def test_every_rule_has_a_second_opinion():
    """No rule rests on its oracle alone."""
    traced = {load_trace(path)["optimizer"] for path in TRACES}
    by_torch = {row[0] for row in TORCH_ROWS}
    ours = {name for name in ob.list_optimizers() if ob.optimizer_info(name).rule}
    assert traced | by_torch | FED.keys() == ours
    assert not traced & by_torch
