"""Other people's code on the same problem: torch's optimizers, and numbers of the authors' own.

``traces/*.json`` hold what the authors' code computed, outside this project, on the inputs of
``inputs.py``; each names its repository, commit, arguments and known differences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oracles.comparison import (
    STEPS,
    constant_lr,
    distance,
    lr_at,
    make_parameter,
    run_rule,
    set_gradients,
)
from oracles.inputs import gradient, parameter
from oracles.proof import ALL_SHAPES, Shape

TRACES = sorted((Path(__file__).parents[1] / "traces").glob("*.json"))

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
    ("sam", {**SGD, "rho": 0.1}, "SGD", SGD),
    ("svrg", {**BETAS, "coefficient": 0.5}, "AdamW", BETAS),
    ("rmsprop", RMSPROP, "RMSprop", None),
    ("adam", BETAS, "Adam", None),
    ("adamw", BETAS, "AdamW", None),
    ("adamw-bf16", {**BETAS, "rounding": "kahan"}, "AdamW", BETAS),
    ("nadam", {**BETAS, "momentum_decay": 0.3}, "NAdam", None),
    ("radam", BETAS, "RAdam", None),
    ("adamax", BETAS, "Adamax", None),
    ("adadelta", {"lr": 3.0, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}, "Adadelta", None),
    ("adagrad", ADAGRAD, "Adagrad", None),
    ("rprop", {"lr": 0.05, "etas": (0.6, 1.3), "step_sizes": (0.02, 0.15)}, "Rprop", None),
    (
        "adafactor",
        {"lr": 0.2, "decay_rate": 0.6, "clip_threshold": 1.1, "weight_decay": 0.1},
        "Adafactor",
        {"lr": 0.2, "beta2_decay": -0.6, "d": 1.1, "weight_decay": 0.1, "eps": (1e-15, 1e-3)},
    ),
]


def run_other(
    make: Callable[..., torch.optim.Optimizer], lr: float, dtype: torch.dtype
) -> list[np.ndarray]:
    """Paths of the same problem as ``run_rule`` gives, by a foreign optimizer."""
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(ALL_SHAPES)]
    optimizer = make(params)
    paths: list[list[np.ndarray]] = [[] for _ in params]
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = lr_at(lr, t)
        set_gradients(params, ALL_SHAPES, t, gradient)
        optimizer.step()
        for path, p in zip(paths, params, strict=True):
            path.append(p.detach().double().numpy().copy())
    return [np.stack(path) for path in paths]


def worst(paths: list[np.ndarray], references: list[np.ndarray], shapes: Sequence[Shape]) -> float:
    """The largest distance of any parameter's path from its reference."""
    starts = [parameter(shape.sizes, index) for index, shape in enumerate(shapes)]
    return max(map(distance, paths, references, starts))


def torch_deviation(row: tuple[str, dict[str, Any], str, Any], dtype: torch.dtype) -> float:
    """Distance of our rule from torch's class over all parameters and steps."""
    name, ours, other, arguments = row
    make = getattr(torch.optim, other)
    theirs = run_other(lambda params: make(params, **(arguments or ours)), ours["lr"], dtype)
    return worst(run_rule(name, ours, ALL_SHAPES, dtype, "eager"), theirs, ALL_SHAPES)


def trace_deviation(trace: dict[str, Any], run: dict[str, Any], dtype: torch.dtype) -> float:
    """Distance of our rule from one run of a trace, at the steps that it recorded."""
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
    return worst([path[at] for path in paths], references, shapes)


def load_trace(path: Path) -> dict[str, Any]:
    """A trace as plain values."""
    return json.loads(path.read_text(encoding="utf-8"))
