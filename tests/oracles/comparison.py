"""How far a rule, run by the engine, strays from its oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import optbench_llm as ob
from oracles import Step, run_oracle
from oracles.inputs import curvature_gradient, gradient, parameter

STEPS = 20
SAMPLES = 3.0


@dataclass(frozen=True)
class Shape:
    """The shape of a parameter; ``transposed`` stores it as the transpose of a contiguous one."""

    sizes: tuple[int, ...]
    transposed: bool = False


ALL_SHAPES = (
    Shape(()),
    Shape((7,)),
    Shape((5, 8)),
    Shape((6, 9), transposed=True),
    Shape((2, 3, 4)),
)
COMPILED_SHAPES = (Shape((5, 8)), Shape((7,)))


def lr_at(lr: float, t: int) -> float:
    """The learning rate of step t: it changes twice."""
    return lr * (1.0 if t <= 7 else 0.5 if t <= 14 else 0.75)


def constant_lr(lr: float, t: int) -> float:
    """The same learning rate at every step."""
    return lr


def has_gradient(index: int, t: int) -> bool:
    """Whether parameter number ``index`` has a gradient at step t; some start late, some pause."""
    return (t + 2 * index) % 5 != 3


def make_parameter(shape: Shape, index: int, dtype: torch.dtype) -> torch.nn.Parameter:
    """The parameter, laid out as ``shape`` says."""
    start = torch.from_numpy(parameter(shape.sizes, index)).to(dtype)
    return torch.nn.Parameter(start.t().contiguous().t() if shape.transposed else start)


def run_rule(
    spec: str,
    hyperparameters: dict[str, Any],
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    engine: str,
    *,
    pauses: bool = True,
    schedule: Callable[[float, int], float] = lr_at,
    evaluate: bool = False,
) -> list[np.ndarray]:
    """For each parameter its path: the values after each step, float64 of shape (steps, ...).

    Without ``pauses`` every parameter has a gradient at every step. ``schedule`` gives the lr of a
    step. ``evaluate`` takes the values in evaluation mode, and goes back to training after each.
    """
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(shapes)]
    optimizer: Any = ob.create_optimizer(params, spec, engine=engine, **hyperparameters)
    paths: list[list[np.ndarray]] = [[] for _ in params]
    for t in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule(hyperparameters["lr"], t)
        take_step(optimizer, params, shapes, t, pauses)
        if evaluate:
            optimizer.eval()
        for path, p in zip(paths, params, strict=True):
            path.append(p.detach().double().numpy().copy())
        if evaluate:
            optimizer.train()
    return [np.stack(path) for path in paths]


def set_gradients(
    params: list[torch.nn.Parameter],
    shapes: Sequence[Shape],
    t: int,
    source: Callable[[tuple[int, ...], int, int], np.ndarray],
    pauses: bool = True,
) -> None:
    """Give every parameter its gradient of step t, or None where it pauses."""
    for index, (p, shape) in enumerate(zip(params, shapes, strict=True)):
        p.grad = None
        if has_gradient(index, t) or not pauses:
            p.grad = torch.from_numpy(source(shape.sizes, index, t)).to(p.dtype)


def take_step(
    optimizer: Any,
    params: list[torch.nn.Parameter],
    shapes: Sequence[Shape],
    t: int,
    pauses: bool = False,
) -> None:
    """Step t of an optimizer of ours; Sophia is fed its second gradient every k steps."""
    period = optimizer.param_groups[0].get("k")
    if period and t % period == 1:
        set_gradients(params, shapes, t, curvature_gradient, pauses)
        optimizer.observe(scale=SAMPLES)
    set_gradients(params, shapes, t, gradient, pauses)
    optimizer.step()


def oracle_path(
    name: str, hyperparameters: dict[str, Any], shape: Shape, index: int, **more: Any
) -> np.ndarray:
    """The oracle's values after each step; a step without a gradient repeats the last."""
    h = {key: value for key, value in hyperparameters.items() if key not in ("lr", "k")}
    period = hyperparameters.get("k")
    times = [t for t in range(1, STEPS + 1) if has_gradient(index, t)]
    steps = [
        Step(
            lr_at(hyperparameters["lr"], t),
            gradient(shape.sizes, index, t),
            curvature_gradient(shape.sizes, index, t) if period and t % period == 1 else None,
            SAMPLES,
        )
        for t in times
    ]
    start = parameter(shape.sizes, index)
    known = dict(zip(times, run_oracle(name, start, steps, **h, **more), strict=True))
    path = []
    for t in range(1, STEPS + 1):
        path.append(known[t] if t in known else path[-1] if path else start)
    return np.stack(path)


def distance(path: np.ndarray, reference: np.ndarray, start: np.ndarray) -> float:
    """Largest difference of two paths over the reference's largest displacement (max-norms)."""
    return float(np.abs(path - reference).max() / np.abs(reference - start).max())


def deviation(
    name: str,
    hyperparameters: dict[str, Any],
    *,
    shapes: Sequence[Shape] = ALL_SHAPES,
    dtype: torch.dtype = torch.float32,
    engine: str = "eager",
    evaluate: bool = False,
) -> float:
    """The worst distance from the oracle over all parameters and steps."""
    paths = run_rule(name, hyperparameters, shapes, dtype, engine, evaluate=evaluate)
    more = {"at": "x"} if evaluate else {}
    return max(
        distance(
            path,
            oracle_path(name, hyperparameters, shape, index, **more),
            parameter(shape.sizes, index),
        )
        for index, (shape, path) in enumerate(zip(shapes, paths, strict=True))
    )
