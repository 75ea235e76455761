"""How far a rule, run by the engine, strays from its oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import optbench_llm as ob
from oracles import PROOFS
from oracles.inputs import curvature_gradient, gradient, parameter
from oracles.proof import ALL_SHAPES, Shape
from oracles.step import Step

STEPS = 20
SAMPLES = 3.0


def compiled_shapes(name: str) -> tuple[Shape, ...]:
    """Two shapes, since every compiled one takes seconds; one where it takes many."""
    shapes = PROOFS[name].shapes if name in PROOFS else ALL_SHAPES
    return tuple(shapes[2:0:-1])[: 1 if name in ("psgd-kron", "shampoo", "soap") else 2]


def lr_at(lr: float, t: int) -> float:
    """The learning rate of step t: it changes twice."""
    return lr * (1.0 if t <= 7 else 0.5 if t <= 14 else 0.75)


def constant_lr(lr: float, t: int) -> float:
    """The same learning rate at every step."""
    return lr


def has_gradient(index: int, t: int) -> bool:
    """Whether parameter number ``index`` has a gradient at step t; some start late, some pause."""
    return (t + 2 * index) % 5 != 3


def make_parameter(
    shape: Shape, index: int, dtype: torch.dtype, device: str = "cpu"
) -> torch.nn.Parameter:
    """The parameter, laid out as ``shape`` says."""
    start = torch.from_numpy(parameter(shape.sizes, index)).to(dtype).to(device)
    return torch.nn.Parameter(start.t().contiguous().t() if shape.transposed else start)


def make_optimizer(params: list[torch.nn.Parameter], spec: str, **settings: Any) -> Any:
    """An optimizer of ours; what the proof says of the matrices' role goes with them."""
    proof = PROOFS.get(spec.partition("@")[0])
    if proof is None or proof.role is None:
        return ob.create_optimizer(params, spec, **settings)
    groups = [{"params": [p for p in params if p.ndim > 1], "role": proof.role}]
    if vectors := [p for p in params if p.ndim < 2]:
        groups.append({"params": vectors, "role": "vector"})
    return ob.create_optimizer(groups, spec, **settings)


def shapes_of(spec: str) -> Sequence[Shape]:
    """What the rule of a spec takes."""
    return PROOFS[spec.partition("@")[0]].shapes


def bearable(spec: str, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Those of the shapes that the rule of a spec takes."""
    only_matrices = PROOFS[spec.partition("@")[0]].role is not None
    return [shape for shape in shapes if len(shape.sizes) > 1 or not only_matrices]


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
    optimizer = make_optimizer(params, spec, engine=engine, **hyperparameters)
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
            p.grad = torch.from_numpy(source(shape.sizes, index, t)).to(p.dtype).to(p.device)


def take_step(
    optimizer: Any,
    params: list[torch.nn.Parameter],
    shapes: Sequence[Shape],
    t: int,
    pauses: bool = False,
) -> None:
    """Step t of an optimizer of ours; what it observes is fed every k steps."""
    if optimizer.rule.observe is not None and (t - 1) % optimizer.defaults["k"] == 0:
        set_gradients(params, shapes, t, curvature_gradient, pauses)
        optimizer.observe(scale=SAMPLES)
    set_gradients(params, shapes, t, gradient, pauses)
    optimizer.gradients_made()
    optimizer.step()


def oracle_paths(
    name: str, hyperparameters: dict[str, Any], shapes: Sequence[Shape], **more: Any
) -> list[np.ndarray]:
    """For each parameter the oracle's values after each step; without a gradient nothing moves."""
    proof = PROOFS[name]
    skipped = {"lr", "k"} if _observes(name) else {"lr"}
    h = {k: v for k, v in hyperparameters.items() if k not in skipped and not is_companion(k)}
    starts = [parameter(shape.sizes, index) for index, shape in enumerate(shapes)]
    steps = [
        [_step(name, hyperparameters, shape, index, t) for t in range(1, STEPS + 1)]
        for index, shape in enumerate(shapes)
    ]
    if proof.joint:
        together = [
            Step(
                at_t[0].lr, [step.g if has_gradient(i, t) else None for i, step in enumerate(at_t)]
            )
            for t, at_t in enumerate(zip(*steps, strict=True), start=1)
        ]
        values = [[np.array(p) for p in ps] for ps in proof.oracle(starts, together, **h, **more)]
        return [np.stack(path) for path in zip(*values, strict=True)]
    paths = []
    for index, (start, own) in enumerate(zip(starts, steps, strict=True)):
        moving = (step for t, step in enumerate(own, start=1) if has_gradient(index, t))
        values = (np.array(p) for p in proof.oracle(start, list(moving), **h, **more))
        path = [start]
        for t in range(1, STEPS + 1):
            path.append(next(values) if has_gradient(index, t) else path[-1])
        paths.append(np.stack(path[1:]))
    return paths


def is_companion(hyperparameter: str) -> bool:
    """Whether it belongs to the rule that steps what this one does not."""
    return hyperparameter.startswith("companion_")


def _observes(name: str) -> bool:
    return ob.optimizer_info(name).rule_class().observe is not None


def _step(name: str, h: dict[str, Any], shape: Shape, index: int, t: int) -> Step:
    due = _observes(name) and (t - 1) % h["k"] == 0
    curvature = curvature_gradient(shape.sizes, index, t) if due else None
    return Step(lr_at(h["lr"], t), gradient(shape.sizes, index, t), curvature, SAMPLES)


def distance(path: np.ndarray, reference: np.ndarray, start: np.ndarray) -> float:
    """Largest difference of two paths over the reference's largest displacement (max-norms)."""
    return float(np.abs(path - reference).max() / np.abs(reference - start).max())


def deviation(
    name: str,
    hyperparameters: dict[str, Any],
    *,
    shapes: Sequence[Shape] | None = None,
    dtype: torch.dtype = torch.float32,
    engine: str = "eager",
    evaluate: bool = False,
) -> float:
    """The worst distance from the oracle over all parameters and steps."""
    shapes = PROOFS[name].shapes if shapes is None else shapes
    paths = run_rule(name, hyperparameters, shapes, dtype, engine, evaluate=evaluate)
    references = oracle_paths(name, hyperparameters, shapes, **({"at": "x"} if evaluate else {}))
    return max(
        distance(path, reference, parameter(shape.sizes, index))
        for index, (shape, path, reference) in enumerate(
            zip(shapes, paths, references, strict=True)
        )
    )
