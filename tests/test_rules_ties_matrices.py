"""Laws of the rules that see matrices: Newton-Schulz, Muon, Scion, Adam-mini."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.comparison import STEPS, distance, lr_at
from oracles.inputs import gradient, parameter
from oracles.matrices import adam_mini
from oracles.second_opinion import load_trace
from oracles.step import Step

import optbench_llm as ob
from optbench_llm.rules.newton_schulz import orthogonalise

BY_ROLE = sorted((Path(__file__).parent / "traces" / "layouts").glob("*.json"))
ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


def walk(
    name: str,
    shape: tuple[int, ...],
    group: dict[str, Any],
    *,
    index: int = 0,
    dtype: torch.dtype = torch.float64,
    schedule: Any = lr_at,
    **settings: Any,
) -> list[torch.Tensor]:
    """The parameter after each of the common steps, as a group that says what it is."""
    p = torch.nn.Parameter(torch.from_numpy(parameter(shape, index)).to(dtype))
    optimizer = ob.create_optimizer([{"params": [p], **group}], name, engine="eager", **settings)
    path = []
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = schedule(settings["lr"], t)
        p.grad = torch.from_numpy(gradient(shape, index, t)).to(dtype)
        optimizer.step()
        path.append(p.detach().clone())
    return path


def matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
def test_newton_schulz_pushes_singular_values_to_one(shape):
    """They end between 0.6 and 1.3, whatever the scale; before they are all below 0.9."""
    g = matrix(*shape)
    for scale in (1e-3, 1.0, 1e4):
        values = torch.linalg.svdvals(orthogonalise(g * scale))
        assert values.min() > 0.6
        assert values.max() < 1.3
    values = torch.linalg.svdvals(g / g.norm())
    assert values.max() < 0.9


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
def test_newton_schulz_keeps_singular_vectors(shape):
    """In the basis of the matrix's own singular vectors the result is diagonal and positive."""
    g = matrix(*shape)
    left, _, right = torch.linalg.svd(g, full_matrices=False)
    core = left.T @ orthogonalise(g) @ right.T
    assert torch.allclose(core, core.diag().diag(), atol=1e-12)
    assert (core.diag() > 0).all()
    other = torch.linalg.svd(matrix(*shape).flip(0, 1), full_matrices=False)
    wrong = other.U.T @ orthogonalise(g) @ other.Vh.T
    assert not torch.allclose(wrong, wrong.diag().diag(), atol=0.1)


@pytest.mark.parametrize(("rows", "columns", "scale"), [(4, 4, 1.0), (3, 12, 1.0), (12, 3, 2.0)])
def test_muon_moves_along_an_orthogonal_gradient(rows, columns, scale):
    """All singular values equal: the first step is that gradient, longer for tall matrices."""
    q = torch.linalg.qr(matrix(max(rows, columns), min(rows, columns))).Q
    q = q if rows >= columns else q.T
    p = torch.nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))
    optimizer = ob.create_optimizer([{"params": [p], "role": "matrix"}], "muon", lr=0.1)
    p.grad = 7 * q
    optimizer.step()
    value = min(rows, columns) ** -0.5
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    assert torch.allclose(p.detach(), -0.1 * scale * value * q, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 8), (8, 3)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_up_to_its_bfloat16(shape, nesterov):
    """torch.optim.Muon iterates in bfloat16; its other lr adjustment is a factor on the lr."""
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    ratio = max(1, shape[0] / shape[1]) ** 0.5
    factors = {"original": 1.0, "match_rms_adamw": 0.2 * max(shape) ** 0.5 / ratio}
    for adjust, factor in factors.items():
        theirs = torch.nn.Parameter(torch.from_numpy(parameter(shape, 0)).float())
        optimizer = torch.optim.Muon([theirs], adjust_lr_fn=adjust, **settings)
        for t in range(1, STEPS + 1):
            theirs.grad = torch.from_numpy(gradient(shape, 0, t)).float()
            optimizer.step()
        ours = {**settings, "lr": 0.05 * factor, "weight_decay": 0.1 / factor}
        ends = [
            walk("muon", shape, {"role": "matrix"}, schedule=lambda lr, t: lr, **chosen)[-1]
            for chosen in (ours, settings)
        ]
        reference, start = theirs.detach().double().numpy(), parameter(shape, 0)
        adjusted, unadjusted = (distance(p.numpy(), reference, start) for p in ends)
        assert adjusted < 0.02
        assert (unadjusted < 0.02) == (adjust == "original")


@pytest.mark.parametrize("name", ["muon", "scion", "adam-mini"])
def test_kernels_of_convolutions_are_matrices_of_output_channels(name):
    """A kernel (out, in, k, k) steps as the matrix (out, in * k * k)."""
    lr = {"lr": 0.05}
    kernel = walk(name, (4, 3, 2, 2), {"role": "matrix"}, **lr)[-1]
    flat = walk(name, (4, 12), {"role": "matrix"}, **lr)[-1]
    assert torch.equal(kernel.reshape(4, 12), flat)
    assert not torch.allclose(flat, walk(name, (12, 4), {"role": "matrix"}, **lr)[-1].view(4, 12))


@pytest.mark.parametrize("name", ["muon", "scion"])
def test_fused_parts_step_as_matrices_of_their_own(name):
    """Three parts differ from the whole, and equal three parameters."""
    shape, lr = (6, 4), {"lr": 0.05, "weight_decay": 0.0}
    parts = tuple((role, 2, 1) for role in ("query", "key", "value"))
    whole = torch.nn.Parameter(torch.from_numpy(parameter(shape, 0)))
    apart = [torch.nn.Parameter(rows.clone()) for rows in whole.detach().split(2)]
    optimizers = [
        ob.create_optimizer([{"params": [whole], "role": "matrix", "parts": parts}], name, **lr),
        ob.create_optimizer([{"params": apart, "role": "matrix"}], name, **lr),
    ]
    for t in range(1, STEPS + 1):
        whole.grad = torch.from_numpy(gradient(shape, 0, t))
        for p, g in zip(apart, whole.grad.split(2), strict=True):
            p.grad = g.clone()
        for optimizer in optimizers:
            optimizer.step()
    together = walk(name, shape, {"role": "matrix"}, schedule=lambda lr, t: lr, **lr)[-1]
    assert torch.allclose(whole.detach(), torch.cat([p.detach() for p in apart]), atol=1e-12)
    assert not torch.allclose(whole.detach(), together, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "group"),
    [((6, 1), {"role": "matrix"}), ((6, 8), {"role": "bias"}), ((7,), {"role": "bias"})],
)
def test_adam_mini_with_blocks_of_one_element_is_adamw(shape, group):
    """Rows of one element, and biases; rows of several are another optimizer."""
    adamw = walk("adamw", shape, {}, **ADAM)[-1]
    assert torch.allclose(walk("adam-mini", shape, group, **ADAM)[-1], adamw, atol=1e-12)
    rows = walk("adam-mini", (6, 8), {"role": "matrix"}, **ADAM)[-1]
    assert not torch.allclose(rows, walk("adamw", (6, 8), {}, **ADAM)[-1], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "group", "blocks"),
    [
        ((6, 8), {"role": "query", "parts": (("query", 6, 2),)}, 2),
        ((6, 8), {"role": "key", "parts": (("key", 6, 3),)}, 3),
        ((6, 8), {"role": "value", "parts": (("value", 6, 3),)}, 6),
        ((6, 8), {"role": "query"}, 6),
        ((6, 8), {"role": "embedding"}, 6),
        ((6, 8), {"role": "head"}, 6),
        ((6,), {"role": "norm"}, 1),
        ((6,), {"role": "vector"}, 1),
        ((6,), {"role": "bias"}, 6),
    ],
)
def test_blocks_of_adam_mini_follow_the_role(shape, group, blocks, dtype):
    """Heads, rows, whole vectors, elements: each as the float64 reference with as many blocks."""
    steps = [Step(lr_at(0.05, t), gradient(shape, 0, t)) for t in range(1, STEPS + 1)]
    settings = {key: value for key, value in ADAM.items() if key != "lr"}
    start = parameter(shape, 0)
    ours = torch.stack(walk("adam-mini", shape, group, dtype=dtype, **ADAM)).double().numpy()
    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    for count in (1, 2, 3, 6):
        path = np.stack(list(adam_mini(start, steps, blocks=count, **settings)))
        assert (distance(ours, path, start) < tolerance) == (count == blocks)


@pytest.mark.parametrize(
    ("shape", "group", "alone"),
    [
        ((6, 8), {"role": "query", "parts": (("query", 6, 2),)}, {"role": "query"}),
        ((6,), {"role": "norm"}, {"role": "norm"}),
    ],
)
def test_heads_and_vectors_of_adam_mini_cannot_be_split(shape, group, alone):
    """Stepped piece by piece they end elsewhere; the rows of other matrices do not."""

    def pieces(shape: tuple[int, ...], group: dict[str, Any]) -> torch.Tensor:
        start = torch.from_numpy(parameter(shape, 0))
        ps = [torch.nn.Parameter(part.clone()) for part in start.split(1)]
        optimizer = ob.create_optimizer([{"params": ps, **group}], "adam-mini", **ADAM)
        for t in range(1, STEPS + 1):
            optimizer.param_groups[0]["lr"] = lr_at(0.05, t)
            for p, g in zip(ps, torch.from_numpy(gradient(shape, 0, t)).split(1), strict=True):
                p.grad = g.clone()
            optimizer.step()
        return torch.cat([p.detach() for p in ps])

    assert not torch.allclose(
        pieces(shape, alone), walk("adam-mini", shape, group, **ADAM)[-1], atol=1e-3
    )
    rows = {"role": "value"}
    assert torch.allclose(pieces((6, 8), rows), walk("adam-mini", (6, 8), rows, **ADAM)[-1])


@pytest.mark.parametrize("path", BY_ROLE, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_authors_numbers_are_reproduced_in_every_role(path, dtype):
    """Embedding, head, queries and keys with heads, biases, norms: as the authors' code has it."""
    trace = load_trace(path)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    for run in trace["runs"]:
        for index, (sizes, group) in enumerate(zip(trace["shapes"], trace["groups"], strict=True)):
            shape = tuple(sizes)
            settings = run["hyperparameters"]
            steps = walk(trace["optimizer"], shape, group, index=index, dtype=dtype, **settings)
            ours = torch.stack([steps[t - 1] for t in trace["steps"]]).double().numpy()
            theirs = np.stack([np.reshape(at[index], shape) for at in run["parameters"]])
            assert distance(ours, theirs, parameter(shape, index)) < tolerance, group


def test_scion_constrained_stays_within_its_radius():
    """With weight decay 1 the spectral norm ends under 1.3 radii, without it grows past them."""
    settings = {"lr": 0.3, "radius": 2.0}

    def norms(decay: float) -> float:
        path = walk("scion", (6, 6), {"role": "matrix"}, weight_decay=decay, **settings)
        return float(torch.linalg.matrix_norm(path[-1], 2))

    assert norms(1.0) < 1.3 * 2.0 < norms(0.0)


def test_scion_without_momentum_or_decay_is_sign_descent_on_the_outer_layers():
    """A head moves by lr * 60 * radius / columns in each element, an embedding by a third of a
    radius, however wide it is."""
    settings = {"lr": 0.01, "alpha": 1.0, "radius": 2.0, "weight_decay": 0.0}
    paths = {
        role: walk("scion", (6, 4), {"role": role}, schedule=lambda lr, t: lr, **settings)
        for role in ("embedding", "head", "matrix")
    }
    for role, factor in (("embedding", 1 / 3), ("head", 60 / 4)):
        p = torch.from_numpy(parameter((6, 4), 0))
        for t in range(1, STEPS + 1):
            p -= 0.01 * 2.0 * factor * torch.from_numpy(gradient((6, 4), 0, t)).sign()
        for other, path in paths.items():
            assert torch.allclose(path[-1], p, atol=1e-9) == (other == role)
