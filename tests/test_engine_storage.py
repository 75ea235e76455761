"""State in 16 and 8 bits: how far it strays from fp32, in short and in long runs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import make_optimizer, make_parameter, take_step
from oracles.proof import Shape
from torch import nn

import optbench_llm as ob
from optbench_llm.engine.storage import BLOCK, SMALLEST_INT8, Blockwise

SHAPES = (Shape((64, 80)), Shape((70, 64), transposed=True))
STORED = [f"{name}@{storage}" for name in CASES for storage in ("bf16", "int8")]
#: Distance of the displacements after 20 steps, relative, in the 2-norm.
SHORT = {"bf16": 0.01, "int8": 0.03}
#: The same after 150 steps of noisy gradients whose elements differ widely in size, and how far the
#: displacement's length may stray. Adan's four slots are the worst; Cautious Lion, whose mask sees
#: small momenta rounded to 0, is 6 % shorter, and 7 % after ten times as many steps.
LONG = {"bf16": 0.02, "int8": 0.4}
LONG_LENGTH = 0.08


def create_or_skip(params: Any, spec: str, **h: Any) -> Any:
    try:
        return make_optimizer(params, spec, engine="eager", **h)
    except ValueError as error:
        if "storage" not in str(error):
            raise
        pytest.skip(str(error))


@cache
def short_run(spec: str) -> torch.Tensor:
    """Displacement after 20 steps of the rule's first case."""
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(SHAPES)]
    start = [p.detach().clone() for p in params]
    optimizer = create_or_skip(params, spec, **CASES[spec.partition("@")[0]][0])
    for t in range(1, 21):
        take_step(optimizer, params, SHAPES, t)
    return torch.cat([(p.detach() - s).flatten() for p, s in zip(params, start, strict=True)])


@cache
def long_run(spec: str, steps: int = 150) -> torch.Tensor:
    """Displacement under default betas and a small lr, as in a real run."""
    rule = ob.optimizer_info(spec).name
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(64, SMALLEST_INT8 // 64, generator=generator).exp()
    p = nn.Parameter(torch.randn(sizes.shape, generator=generator) * 0.1)
    start = p.detach().clone()
    lr = ob.optimizer_info(rule).lr / 10
    optimizer = create_or_skip([p], spec, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        noise = torch.randn(sizes.shape, generator=generator)
        p.grad = 0.01 * sizes * (noise + 0.3)
        if optimizer.program:
            optimizer.observe(scale=100.0)
        optimizer.step()
    return p.detach() - start


@pytest.mark.parametrize("spec", STORED)
def test_short_runs_stay_close_to_fp32(spec):
    """20 steps end within the stated distance, and not at fp32's own place."""
    name, _, storage = spec.partition("@")
    exact, found = short_run(name), short_run(spec)
    assert 0 < (found - exact).norm() < SHORT[storage] * exact.norm()


@pytest.mark.parametrize("spec", STORED)
def test_long_runs_stay_close_to_fp32(spec):
    """Rounding must not pile up: moments that could only grow would make the steps vanish."""
    name, _, storage = spec.partition("@")
    found = long_run(spec)
    exact = long_run(name)
    assert (found - exact).norm() < LONG[storage] * exact.norm()
    assert abs(found.norm() / exact.norm() - 1) < LONG_LENGTH


@pytest.mark.parametrize(
    ("spec", "bytes_per_element"),
    [("adamw", 8), ("adamw@bf16", 6), ("adamw@int8", 5), ("lion@int8", 1), ("adan@int8", 7)],
)
def test_state_is_as_small_as_it_says(spec, bytes_per_element):
    """8 bits cost one byte and one fp32 scale for 256 elements; second moments stay in fp32."""
    p = nn.Parameter(torch.ones(64, BLOCK))
    p.grad = torch.ones_like(p)
    optimizer: Any = ob.create_optimizer([p], spec)
    optimizer.step()
    coded = {"adamw@int8": 1, "lion@int8": 1, "adan@int8": 3}.get(spec, 0)
    scales = 4 / BLOCK * coded
    assert optimizer.state_bytes() / p.numel() == bytes_per_element + scales


def test_small_tensors_stay_in_fp32_under_int8():
    """Norms and biases gain nothing and are often the delicate ones."""
    small, large = nn.Parameter(torch.ones(64)), nn.Parameter(torch.ones(SMALLEST_INT8))
    for p in (small, large):
        p.grad = torch.ones_like(p)
    optimizer = ob.create_optimizer([small, large], "adamw@int8")
    optimizer.step()
    assert optimizer.state[small]["exp_avg"].dtype is torch.float32
    assert optimizer.state[large]["exp_avg"].dtype is torch.int8


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_second_moments_shrink_again(storage):
    """A step moves them by 0.1 %: rounded to bf16 or to codes they would stay up for ever."""
    moments = {}
    for spec in ("adamw", f"adamw@{storage}"):
        p = nn.Parameter(torch.zeros(SMALLEST_INT8))
        optimizer = ob.create_optimizer([p], spec)
        for t in range(1500):
            p.grad = torch.full_like(p, 1.0 if t < 20 else 0.1)
            optimizer.step()
        moments[spec] = optimizer.state[p]["exp_avg_sq"]
    assert torch.equal(moments[f"adamw@{storage}"], moments["adamw"])
    assert moments["adamw"].max() < 0.02


def test_centred_rmsprop_stays_finite_in_low_bits():
    """A rounded mean above the mean square would make the variance negative, and the root NaN."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SMALLEST_INT8, generator=generator)
    p = nn.Parameter(torch.zeros(SMALLEST_INT8))
    optimizer = ob.create_optimizer([p], "rmsprop@int8", centered=True, momentum=0.9, lr=1e-4)
    for _ in range(60):
        p.grad = base + 0.02 * torch.randn(SMALLEST_INT8, generator=generator)
        optimizer.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize(
    "spec", ["sgd-schedulefree@bf16", "adamw-schedulefree@int8", "adadelta@int8", "adagrad@bf16"]
)
def test_storage_without_effect_is_refused(spec):
    """With the name to use instead."""
    name = spec.partition("@")[0]
    p = nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match=rf"'{spec}'.*needs full precision.* Use {name}\."):
        ob.create_optimizer([p], spec)


@pytest.mark.parametrize("spec", ["adamp@int8", "sgdp@int8", "adafactor@int8"])
def test_int8_is_refused_where_rows_must_stay_whole(spec):
    """With the storage to use instead."""
    name = spec.partition("@")[0]
    p = nn.Parameter(torch.ones(4))
    momentum = {"adamp": {}, "sgdp": {"momentum": 0.9}, "adafactor": {"beta1": 0.9}}[name]
    with pytest.raises(ValueError, match=rf"'{spec}'.*whole rows or matrices. Use {name}@bf16\."):
        ob.create_optimizer([p], spec, **momentum)


@pytest.mark.parametrize("numel", [1, 255, 256, 257, 5000])
def test_blockwise_codes_are_within_half_a_code(numel):
    """Any size, the last block part-filled; each block's extreme comes back almost exactly."""
    values = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
    storage = Blockwise()
    codes, scales = storage.encode(values)
    back = storage.decode((codes, scales), values)
    assert codes.shape == values.shape
    assert scales.shape == (-(-numel // BLOCK),)
    scale = scales.repeat_interleave(BLOCK)[:numel]
    assert ((back - values).abs() / scale).max() < 0.51 / 127


def test_blocks_of_zeros_stay_zero():
    """The first steps of rarely used embeddings."""
    values = torch.zeros(512)
    storage = Blockwise()
    assert torch.equal(storage.decode(storage.encode(values), values), values)
