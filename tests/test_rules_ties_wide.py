"""Laws of the rules that see a whole tensor or the whole model: SWATS, Prodigy, CAME, Apollo."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import constant_lr, make_parameter, run_rule
from oracles.inputs import gradient
from oracles.proof import ALL_SHAPES, Shape

import optbench_llm as ob

SHAPES = (Shape((5, 8)), Shape((7,)))
MODEL_SCOPE = ["prodigy", "swats"]
ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.0}
#: SWATS that switches after a few steps.
SWITCHING = {"lr": 0.05, "betas": (0.8, 0.95), "tolerance": 1e-3, "weight_decay": 0.1}
#: Prodigy without what would tell it from Adam, but for its estimate.
BARE = {"eps": 0.0, "use_bias_correction": True, "d0": 0.02, "betas": (0.8, 0.95)}


def final(name: str, shapes: Any = ALL_SHAPES, **h: Any) -> list[torch.Tensor]:
    """The parameters after 20 steps in float64."""
    paths = run_rule(name, h, shapes, torch.float64, "eager", schedule=constant_lr)
    return [torch.as_tensor(path[-1]) for path in paths]


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(a, b, strict=True))


def make(name: str, **h: Any) -> tuple[list[torch.nn.Parameter], Any]:
    params = [make_parameter(shape, i, torch.float64) for i, shape in enumerate(SHAPES)]
    return params, ob.create_optimizer(params, name, engine="eager", **h)


def walk(params: list[torch.nn.Parameter], optimizer: Any, first: int, last: int) -> None:
    """Steps ``first`` to ``last``."""
    for t in range(first, last + 1):
        for i, (p, shape) in enumerate(zip(params, SHAPES, strict=True)):
            p.grad = torch.from_numpy(gradient(shape.sizes, i, t))
        optimizer.step()


def test_swats_that_never_switches_is_adam():
    """With eps 0; its eps stands beside an uncorrected second moment, as in the paper."""
    params, swats = make("swats", **ADAM, weight_decay=0.1, tolerance=0.0)
    others, adam = make("adam", **ADAM, weight_decay=0.1)
    walk(params, swats, 1, 20)
    walk(others, adam, 1, 20)
    assert close(params, others)
    willing, swats = make("swats", **ADAM, weight_decay=0.1, tolerance=1e-3)
    walk(willing, swats, 1, 20)
    assert not close(willing, others)


def switched() -> tuple[list[torch.nn.Parameter], Any, int, float]:
    """SWATS right after its switch, the next step, and the learning rate of SGD."""
    params, swats = make("swats", **SWITCHING)
    for t in range(1, 16):
        walk(params, swats, t, t)
        if swats.param_groups[0]["relative_rate"]:
            return params, swats, t + 1, swats.param_groups[0]["relative_rate"] * SWITCHING["lr"]
    raise AssertionError("SWATS did not switch")


def test_swats_after_its_switch_is_sgd():
    """With the rate it settled on, times 1 - beta1, and a momentum of beta1 that starts anew."""
    params, swats, t, rate = switched()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    sgd = ob.create_optimizer(others, "sgd", lr=0.2 * rate, momentum=0.8, weight_decay=0.1)
    walk(params, swats, t, 20)
    walk(others, sgd, t, 20)
    assert t > 3
    assert close(params, others)


def test_the_schedule_of_swats_goes_on_after_its_switch():
    """Half the lr is half of SGD's rate."""
    params, swats, t, rate = switched()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    sgd = ob.create_optimizer(others, "sgd", lr=0.1 * rate, momentum=0.8, weight_decay=0.1)
    swats.param_groups[0]["lr"] = SWITCHING["lr"] / 2
    walk(params, swats, t, 20)
    walk(others, sgd, t, 20)
    assert close(params, others)


@pytest.mark.parametrize(("second", "switches"), [(0.1, True), (-0.1, False)])
def test_swats_switches_to_no_negative_rate(second, switches):
    """Where momentum runs against the gradient, the SGD step it amounts to climbs."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    swats = ob.create_optimizer([p], "swats", lr=0.05, tolerance=1e9)
    for g in (1.0, second):
        p.grad = torch.tensor([g], dtype=torch.float64)
        swats.step()
    assert (swats.param_groups[0]["relative_rate"] > 0) == switches


def test_prodigy_whose_estimate_stays_is_adamw():
    """At lr times d0, with bias corrections; eps and weight decay off, which d and they scale."""
    params, prodigy = make("prodigy", lr=2.0, **BARE, d_coef=1e-9)
    others, adamw = make("adamw", lr=2.0 * 0.02, betas=(0.8, 0.95), eps=0.0, weight_decay=0.0)
    walk(params, prodigy, 1, 20)
    walk(others, adamw, 1, 20)
    assert close(params, others)
    free, prodigy = make("prodigy", lr=2.0, **BARE)
    walk(free, prodigy, 1, 20)
    assert not close(free, others)


@pytest.mark.parametrize("power", [1, 2])
def test_prodigy_never_overestimates_the_distance(power):
    """On a convex problem d stays below the largest coordinate of the way to the solution."""
    goal = torch.linspace(-3, 5, 24, dtype=torch.float64)
    p = torch.nn.Parameter(torch.zeros_like(goal))
    optimizer = ob.create_optimizer([p], "prodigy", betas=(0.9, 0.99))
    for _ in range(200):
        optimizer.zero_grad()
        (p - goal).abs().pow(power).sum().backward()
        optimizer.step()
        assert optimizer.param_groups[0]["d"] <= 5
    assert optimizer.param_groups[0]["d"] > 0.5


def test_a_step_of_lr_0_does_not_count_for_prodigy():
    """A warm-up that begins at 0 goes the way of one that leaves that step out."""
    settings = CASES["prodigy"][0]
    params, plain = make("prodigy", **settings)
    others, warmed = make("prodigy", **settings)
    walk(params, plain, 2, 8)
    warmed.param_groups[0]["lr"] = 0.0
    walk(others, warmed, 1, 1)
    warmed.param_groups[0]["lr"] = settings["lr"]
    walk(others, warmed, 2, 8)
    assert all(map(torch.equal, params, others))


@pytest.mark.parametrize("frozen_first", [False, True])
def test_a_group_of_lr_0_stays_out_of_prodigys_estimate(frozen_first):
    """Neither its gradients nor its place among the groups matter."""
    settings = CASES["prodigy"][0]
    alone = make_parameter(Shape((5, 8)), 0, torch.float64)
    p, frozen = (make_parameter(Shape((5, 8)), i, torch.float64) for i in (0, 1))
    groups = [{"params": [p]}, {"params": [frozen], "lr": 0.0}]
    one = ob.create_optimizer([alone], "prodigy", **settings)
    two = ob.create_optimizer(groups[:: -1 if frozen_first else 1], "prodigy", **settings)
    for t in range(1, 9):
        alone.grad, frozen.grad = (torch.from_numpy(gradient((5, 8), i, t)) for i in (0, 1))
        p.grad = alone.grad.clone()
        one.step()
        two.step()
    assert torch.equal(p, alone)
    assert torch.equal(frozen, make_parameter(Shape((5, 8)), 1, torch.float64))


@pytest.mark.parametrize("name", MODEL_SCOPE)
def test_the_model_is_seen_whole(name):
    """Cut into other tensors and groups it takes the same path; apart, under two optimizers, not.

    What the rule concluded is the same in all groups.
    """
    settings = CASES[name][0]
    start = make_parameter(Shape((6, 8)), 0, torch.float64).detach()

    def path(groups: Any, *, apart: bool = False) -> torch.Tensor:
        parts = [torch.nn.Parameter(start[rows].clone()) for group in groups for rows in group]
        halves = iter(parts)
        taken = [{"params": [next(halves) for _ in group]} for group in groups]
        made = [taken[:1], taken[1:]] if apart else [taken]
        optimizers = [ob.create_optimizer(some, name, **settings) for some in made]
        for t in range(1, 13):
            g = torch.from_numpy(gradient((6, 8), 0, t))
            for p, rows in zip(parts, (rows for group in groups for rows in group), strict=True):
                p.grad = g[rows].clone()
            for optimizer in optimizers:
                optimizer.step()
        for optimizer in optimizers:
            first, *rest = optimizer.param_groups
            assert all(group[key] == first[key] for group in rest for key in optimizer.rule.carry)
        return torch.cat([p.detach() for p in parts])

    whole = path([[slice(None)]])
    top, bottom = slice(0, 2), slice(2, 6)
    assert torch.allclose(path([[top, bottom]]), whole, rtol=1e-11)
    assert torch.allclose(path([[top], [bottom]]), whole, rtol=1e-11)
    assert not torch.allclose(path([[top], [bottom]], apart=True), whole, rtol=1e-3)


@pytest.mark.parametrize("name", MODEL_SCOPE)
def test_what_the_model_amounts_to_survives_a_checkpoint(name):
    """Saved and loaded as plain values after step 8, the run goes on bit for bit."""
    settings = CASES[name][0]
    params, optimizer = make(name, **settings)
    walk(params, optimizer, 1, 8)
    file = io.BytesIO()
    torch.save([params, optimizer.state_dict()], file)
    file.seek(0)
    saved, state = torch.load(file, weights_only=True)
    fresh: Any = ob.create_optimizer(saved, name, **settings)
    forgetful: Any = ob.create_optimizer([p.detach().clone() for p in saved], name, **settings)
    fresh.load_state_dict(state)
    for key in optimizer.rule.carry:
        assert fresh.param_groups[0][key] == optimizer.param_groups[0][key]
    walk(params, optimizer, 9, 16)
    walk(saved, fresh, 9, 16)
    walk(forgetful.param_groups[0]["params"], forgetful, 9, 16)
    assert all(map(torch.equal, params, saved))
    assert not close(params, forgetful.param_groups[0]["params"])


@pytest.mark.parametrize("name", ["prodigy", "apollo"])
@pytest.mark.parametrize("at", [1, 5])
def test_one_huge_gradient_leaves_parameters_finite(name, at):
    """Its square is beyond fp32's range; the authors' codes survive it too."""
    p = make_parameter(Shape((5, 8)), 0, torch.float32)
    optimizer = ob.create_optimizer([p], name, engine="eager")
    for t in range(1, 10):
        p.grad = torch.from_numpy(gradient((5, 8), 0, t)).float()
        p.grad[0, 0] = 1e20 if t == at else 1.0
        optimizer.step()
        assert p.isfinite().all(), t


@pytest.mark.parametrize(("lr", "warned"), [(1e-3, 1), (0.1, 0), (1.0, 0), (10.0, 0), (50.0, 1)])
def test_prodigy_cautions_against_the_lr_of_another_method(lr, warned):
    """One warning, that says what lr does here and what to set."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make("prodigy", lr=lr)
    assert len(caught) == warned
    for warning in caught:
        words = ("'prodigy'", f"lr={lr:g}", "estimates", "set lr=1", "d_coef")
        assert all(word in str(warning.message) for word in words)


def test_came_whose_instability_is_even_is_adafactor_with_momentum():
    """A huge second eps drowns it; one step's squares alone are the second moment of both."""
    huge = 1e20
    h = {"lr": 0.02 * huge**0.5, "betas": (0.8, 0.0, 0.0), "clip_threshold": 0.7}
    adafactor = final(
        "adafactor",
        lr=0.02,
        beta1=0.8,
        eps=(0.01, 1.0),
        clip_threshold=0.7,
        decay_rate=0.0,
        scale_parameter=False,
        relative_step=False,
    )
    came = final("came", **h, eps=(0.01, huge))
    matrices = [i for i, shape in enumerate(ALL_SHAPES) if len(shape.sizes) >= 2]
    assert close([came[i] for i in matrices], [adafactor[i] for i in matrices])
    feeling = final("came", **{**h, "lr": 0.02}, eps=(0.01, 1.0))
    assert not close([feeling[i] for i in matrices], [adafactor[i] for i in matrices])


def test_came_leaves_vectors_to_adafactor():
    """They have no rows and columns, so no instability: momentum of clipped updates remains."""
    vectors = (Shape(()), Shape((7,)))
    h = {"lr": 0.02, "eps": (0.01, 1.0), "clip_threshold": 0.7}
    came = final("came", vectors, **h, betas=(0.8, 0.0, 0.9))
    fixed = {"decay_rate": 0.0, "scale_parameter": False, "relative_step": False}
    assert close(came, final("adafactor", vectors, **h, **fixed, beta1=0.8))


def test_cames_first_step_on_a_matrix_is_many_times_lr():
    """Its averages start from 0 and their bias stays, as in the authors' code."""
    p = torch.nn.Parameter(torch.zeros(5, 8, dtype=torch.float64))
    optimizer = ob.create_optimizer([p], "came", lr=1e-3)
    p.grad = torch.linspace(1, 2, 5).double()[:, None] * torch.linspace(0.5, 3, 8)
    optimizer.step()
    assert torch.allclose(p, torch.full_like(p, -1e-3 * 0.1 / (0.9 * 0.01)), rtol=1e-6)


def test_apollo_under_one_lasting_gradient_is_sgd():
    """Nothing bends, so every curvature counts as the least, 0.01."""
    params, apollo = make("apollo", lr=0.001)
    others, sgd = make("sgd", lr=0.1)
    for _ in range(10):
        for optimizer, ps in ((apollo, params), (sgd, others)):
            walk(ps, optimizer, 1, 1)
    assert close(params, others)
    walk(params, apollo, 2, 4)
    walk(others, sgd, 2, 4)
    assert not close(params, others)


def test_apollos_curvature_fits_the_last_change():
    """The weak secant equation: along the last direction it gives the mean gradient's change."""
    params, apollo = make("apollo", lr=0.01, beta=0.5, eps=1e-30)
    walk(params, apollo, 1, 3)
    before = [{k: v.clone() for k, v in apollo.state[p].items() if k != "step"} for p in params]
    walk(params, apollo, 4, 4)
    for p, old in zip(params, before, strict=True):
        now, d = apollo.state[p], old["direction"]
        change = (d * (now["exp_avg"] - old["exp_avg"])).sum()
        assert torch.isclose((d * now["approx_hessian"] * d).sum(), -change, rtol=1e-10)
        assert not torch.isclose((d * old["approx_hessian"] * d).sum(), -change, rtol=1e-3)
