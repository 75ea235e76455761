"""Writing into bf16 parameters: to nearest, stochastically, with Kahan's compensation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from marks import slow

import optbench_llm as ob
from optbench_llm.engine.noise import Noise, noise_key
from optbench_llm.engine.rounding import bf16_stochastic, bf16_to_nearest

ELEMENTS = 4096


def numbers() -> torch.Tensor:
    """fp32 numbers of many magnitudes, both signs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ELEMENTS, generator=generator) * 10 ** torch.linspace(-6, 6, ELEMENTS)


def noise(t: int, place: int = 0, start: int = 0) -> Noise:
    return Noise(noise_key(t, place), "update", start)


def make(
    spec: str, dtype: torch.dtype = torch.bfloat16, engine: str = "eager", **h: Any
) -> tuple[torch.nn.Parameter, Any]:
    """One parameter of ones and its optimizer, without weight decay."""
    p = torch.nn.Parameter(torch.ones(ELEMENTS, dtype=dtype))
    return p, ob.create_optimizer([p], spec, engine=engine, weight_decay=0.0, **h)


def step(p: torch.nn.Parameter, optimizer: Any, times: int) -> torch.Tensor:
    """Steps along a constant gradient: Adam then moves by lr each time."""
    for _ in range(times):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return p.detach().float()


def test_nearest_is_torchs_cast():
    """Ties included."""
    x = torch.cat([numbers(), torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0])])
    assert torch.equal(bf16_to_nearest(x), x.bfloat16().float())


def test_no_nan_is_rounded_to_a_number():
    """Whatever its bits; those of a GPU are all ones but the sign, and one more wraps around."""
    bits = [0x7FFFFFFF, -1, 0x7FC00000, 0x7F800001, 0x7F800000, -0x800000]
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    expected = torch.tensor([float("nan")] * 4 + [float("inf"), -float("inf")])
    for rounded in (bf16_to_nearest(x), bf16_stochastic(x, noise(1))):
        assert torch.equal(rounded.nan_to_num(7), expected.nan_to_num(7))
        assert torch.equal(rounded.isnan(), expected.isnan())


def test_stochastic_rounding_takes_a_neighbour_and_is_right_in_the_mean():
    """Up as often as the value lies above the lower neighbour."""
    x = numbers()
    results = torch.stack([bf16_stochastic(x, noise(t)) for t in range(1, 1001)])
    low = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    gap = (x.view(torch.int32) & ~0xFFFF).add(0x10000).view(torch.float32) - low
    assert ((results == low) | (results == low + gap)).all()
    share = ((x - low) / gap).double()
    error = ((results == low + gap).double().mean(0) - share) / (share * (1 - share) / 1000).sqrt()
    error = error[(share > 0.02) & (share < 0.98)]
    assert error.abs().max() < 5
    assert abs(error.mean()) < 5 / len(error) ** 0.5
    assert 0.9 < error.std() < 1.1


def test_noise_differs_between_steps_parameters_and_positions():
    """Half of equal values, halfway between neighbours, go up, and not the same half again."""
    x = torch.full((ELEMENTS,), 1 + 2**-8)
    up = [
        bf16_stochastic(x, noise(t, p, s)) > 1
        for t, p, s in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 7)]
    ]
    for one in up:
        assert 0.45 < one.float().mean() < 0.55
        for other in up:
            assert one is other or 0.4 < (one == other).float().mean() < 0.6


@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
def test_small_steps_survive(engine):
    """200 steps of 1e-4 from 1: to nearest bf16 never moves; both ways end at 0.98."""
    stuck = step(*make("adamw-bf16", lr=1e-4, rounding="nearest", engine=engine), 200)
    assert (stuck == 1).all()
    kahan = step(*make("adamw-bf16", lr=1e-4, rounding="kahan", engine=engine), 200)
    assert (kahan - 0.98).abs().max() < 2**-8
    stochastic = step(*make("adamw-bf16", lr=1e-4, engine=engine), 200)
    # Five of the mean's standard deviations: 1.4e-4, over 4096 walks of 200 steps.
    assert abs(stochastic.mean() - 0.98) < 7e-4
    assert stochastic.std() > 1e-3


def test_kahan_tracks_fp32():
    """Parameter and residual together stay at fp32's path, within 1/20 of bf16's resolution."""
    p, optimizer = make("adamw-bf16", lr=1e-4, rounding="kahan")
    step(p, optimizer, 200)
    exact = step(*make("adamw", torch.float32, lr=1e-4), 200)
    found = p.detach().float() + optimizer.state[p]["compensation"].float()
    assert (found - exact).abs().max() < 2**-8 / 20
    assert optimizer.state[p]["compensation"].dtype == torch.bfloat16
    assert optimizer.state_bytes() == optimizer.planned_state_bytes() == ELEMENTS * (4 + 4 + 2)


def test_pieces_and_compiled_code_round_alike(monkeypatch):
    """The noise belongs to an element's position, not to how the tensor is cut."""
    whole = step(*make("adamw-bf16", lr=1e-4), 3)
    monkeypatch.setattr("optbench_llm.engine.pieces.PIECE_ELEMENTS", 512)
    assert torch.equal(step(*make("adamw-bf16", lr=1e-4), 3), whole)
    assert torch.equal(step(*make("adamw-bf16", lr=1e-4, engine="compiled"), 3), whole)


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_a_resumed_run_rounds_as_the_uninterrupted_one(rounding):
    """Bit for bit."""
    p, optimizer = make("adamw-bf16", lr=1e-4, rounding=rounding)
    step(p, optimizer, 5)
    q, other = make("adamw-bf16", lr=1e-4, rounding=rounding)
    q.data.copy_(p.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(step(p, optimizer, 5), step(q, other, 5))


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_fp32_parameters_are_stepped_by_adamw(rounding):
    """There is nothing to round."""
    found = step(*make("adamw-bf16", torch.float32, lr=1e-4, rounding=rounding), 20)
    assert torch.equal(found, step(*make("adamw", torch.float32, lr=1e-4), 20))
