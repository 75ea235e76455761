"""A second opinion on every rule: torch's and transformers' code, and numbers of the authors' code.

``traces/*.json`` hold what the authors' code computed, outside this project, on the inputs of
``oracles/inputs.py``; each names its repository, commit, arguments and known differences.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.comparison import (
    ALL_SHAPES,
    Shape,
    constant_lr,
    distance,
    lr_at,
    make_parameter,
    run_rule,
    set_gradients,
)
from oracles.inputs import gradient, parameter

TRACES = sorted(Path(__file__).with_name("traces").glob("*.json"))
TRACE_RUNS = [
    pytest.param(path, number, id=f"{path.stem}-{number}")
    for path in TRACES
    for number in range(len(json.loads(path.read_text())["runs"]))
]
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}

BETAS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
SGD = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
RMSPROP = {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}
ADAGRAD = {
    "lr": 0.2,
    "lr_decay": 0.05,
    "initial_accumulator_value": 0.1,
    "eps": 1e-2,
    "weight_decay": 0.1,
}
#: Our name, our hyperparameters, torch's class and arguments where they differ from ours.
TORCH_ROWS: list[tuple[str, dict[str, Any], str, dict[str, Any] | None]] = [
    ("sgd", {**SGD, "dampening": 0.3}, "SGD", None),
    ("sgd", {**SGD, "nesterov": True}, "SGD", None),
    ("sgd", {"lr": 0.1, "weight_decay": 0.1}, "SGD", None),
    ("rmsprop", {**RMSPROP, "momentum": 0.6, "centered": True}, "RMSprop", None),
    ("rmsprop", RMSPROP, "RMSprop", None),
    ("adam", BETAS, "Adam", None),
    ("adamw", BETAS, "AdamW", None),
    ("nadam", {**BETAS, "momentum_decay": 0.3}, "NAdam", None),
    ("radam", BETAS, "RAdam", None),
    ("adamax", BETAS, "Adamax", None),
    ("adadelta", {"lr": 3.0, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}, "Adadelta", None),
    ("adagrad", ADAGRAD, "Adagrad", None),
    (
        "adafactor",
        {"lr": 0.2, "decay_rate": 0.6, "clip_threshold": 1.1, "weight_decay": 0.1},
        "Adafactor",
        {"lr": 0.2, "beta2_decay": -0.6, "d": 1.1, "weight_decay": 0.1, "eps": (1e-15, 1e-3)},
    ),
]


def _run_other(make: Any, lr: float, dtype: torch.dtype) -> list[np.ndarray]:
    """Paths of the same problem as ``run_rule`` gives, by a foreign optimizer."""
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(ALL_SHAPES)]
    optimizer = make(params)
    paths: list[list[np.ndarray]] = [[] for _ in params]
    for t in range(1, 21):
        optimizer.param_groups[0]["lr"] = lr_at(lr, t)
        set_gradients(params, ALL_SHAPES, t, gradient)
        optimizer.step()
        for path, p in zip(paths, params, strict=True):
            path.append(p.detach().double().numpy().copy())
    return [np.stack(path) for path in paths]


def _worst(paths: list[np.ndarray], references: list[np.ndarray], shapes: Any) -> float:
    starts = [parameter(shape.sizes, index) for index, shape in enumerate(shapes)]
    return max(map(distance, paths, references, starts))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("name", "ours", "other", "arguments"),
    [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(TORCH_ROWS)],
)
def test_torch_agrees(name, ours, other, arguments, dtype):
    """torch.optim steps the same problem to the same place."""
    theirs = _run_other(
        lambda params: getattr(torch.optim, other)(params, **(arguments or ours)), ours["lr"], dtype
    )
    paths = run_rule(name, ours, ALL_SHAPES, dtype, "eager")
    # torch keeps NAdam's product of momenta in fp32, whatever the parameter.
    tolerance = 1e-7 if (name, dtype) == ("nadam", torch.float64) else TOLERANCES[dtype]
    assert _worst(paths, theirs, ALL_SHAPES) < tolerance


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
    theirs = _run_other(lambda ps: Adafactor(ps, **shared, decay_rate=-0.6), 0.05, dtype)
    paths = run_rule("adafactor", ours, ALL_SHAPES, dtype, "eager")
    assert _worst(paths, theirs, ALL_SHAPES) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("path", "number"), TRACE_RUNS)
def test_authors_numbers_are_reproduced(path, number, dtype):
    """The rule walks the path that the authors' code walked on the same inputs."""
    trace = json.loads(path.read_text())
    run = trace["runs"][number]
    shapes = [Shape(tuple(sizes)) for sizes in trace["shapes"]]
    paths = run_rule(
        trace["optimizer"],
        run["hyperparameters"],
        shapes,
        dtype,
        "eager",
        pauses=False,
        schedule=constant_lr if run["schedule"] == "constant" else lr_at,
        evaluate=run.get("evaluated", False),
    )
    at = [step - 1 for step in trace["steps"]]
    references = [
        np.stack([np.reshape(values[index], shape.sizes) for values in run["parameters"]])
        for index, shape in enumerate(shapes)
    ]
    found = _worst([path[at] for path in paths], references, shapes)
    assert found < TOLERANCES[dtype]


def test_every_rule_has_a_second_opinion():
    """No rule rests on its oracle alone."""
    import optbench_llm as ob

    traced = {json.loads(path.read_text())["optimizer"] for path in TRACES}
    by_torch = {row[0] for row in TORCH_ROWS}
    ours = {name for name in ob.list_optimizers() if ob.optimizer_info(name).rule}
    assert traced | by_torch == ours
    assert not traced & by_torch
