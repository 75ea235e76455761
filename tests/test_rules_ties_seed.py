"""Laws that tie the first catalog's further element rules to one another and to closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracles.comparison import Shape, make_parameter
from oracles.inputs import gradient
from test_rules_ties import close, final

import optbench_llm as ob

MATRIX = Shape((5, 8))
ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}
SGD = {"lr": 0.06, "weight_decay": 0.1}


def walk(name: str, gradients: list[torch.Tensor], **h: Any) -> torch.Tensor:
    """Displacements of one float64 matrix after each step, for these gradients."""
    p = make_parameter(MATRIX, 0, torch.float64)
    start = p.detach().clone()
    optimizer = ob.create_optimizer([p], name, **h)
    path = []
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach() - start)
    return torch.stack(path)


def varying(steps: int = 8) -> list[torch.Tensor]:
    """A gradient for each step."""
    return [torch.from_numpy(gradient(MATRIX.sizes, 0, t)) for t in range(1, steps + 1)]


def repeated(steps: int = 8) -> list[torch.Tensor]:
    """The same gradient at every step."""
    return varying(1) * steps


def test_qhm_without_momentum_is_sgd():
    """nu 0 leaves the plain gradient."""
    sgd = final("sgd", **SGD)
    assert close(final("qhm", **SGD, momentum=0.8, nu=0.0), sgd)
    assert not close(final("qhm", **SGD, momentum=0.8, nu=0.1), sgd)


def test_qhm_with_nu_1_is_sgd_with_dampened_momentum():
    """Dampened from the first step on, where torch's dampening begins at the second: 1 - beta
    times the lr says the same."""
    damped = final("sgd", lr=0.06 * (1 - 0.8), momentum=0.8, weight_decay=0.1)
    assert close(final("qhm", **SGD, momentum=0.8, nu=1.0), damped)
    assert not close(final("qhm", **SGD, momentum=0.8, nu=0.9), damped)


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_aggmo_with_equal_betas_is_sgd_with_that_momentum(beta):
    """The mean of three equal velocities is one."""
    sgd = final("sgd", **SGD, momentum=beta)
    assert close(final("aggmo", **SGD, betas=(beta, beta, beta)), sgd)
    assert not close(final("aggmo", **SGD, betas=(beta, beta, beta + 0.1)), sgd)


def test_aggmo_with_one_beta_off_0_is_qhm():
    """Two thirds of the plain gradient and a third of a velocity."""
    beta = 0.8
    plain, velocity = 2 / 3, 1 / 3 / (1 - beta)
    h = {"momentum": beta, "weight_decay": 0.1}
    qhm = final("qhm", lr=0.06 * (plain + velocity), nu=velocity / (plain + velocity), **h)
    assert close(final("aggmo", **SGD, betas=(0.0, beta, 0.0)), qhm)


@pytest.mark.parametrize("kappa", [1.0, 30.0])
def test_accsgd_without_statistical_advantage_is_sgd(kappa):
    """Where xi times the constant is 1, the long steps pull no further than the short ones."""
    sgd = final("sgd", **SGD)
    assert close(final("accsgd", **SGD, kappa=kappa, xi=1.0, small_const=1.0), sgd)
    assert not close(final("accsgd", **SGD, kappa=30.0, xi=1.5, small_const=1.0), sgd)


def test_accsgd_is_qhm_with_converted_hyperparameters():
    """Under a constant lr (Ma & Yarats 2019 give the conversion)."""
    kappa, xi, c = 30.0, 4.0, 0.6
    h = {
        "lr": SGD["lr"] * c * (1 + xi) / (1 + c),
        "nu": (c * xi - 1) / (c * (1 + xi)),
        "momentum": (kappa - c * c * xi) / (kappa + c * xi),
        "weight_decay": SGD["weight_decay"],
    }
    ours = final("accsgd", **SGD, kappa=kappa, xi=xi, small_const=c)
    assert close(ours, final("qhm", **h))
    assert not close(ours, final("qhm", **{**h, "nu": h["nu"] + 0.01}))


def test_pid_of_the_proportional_term_alone_is_sgd():
    """Without its integral and its derivative."""
    ours = final("pid", **SGD, momentum=0.8, integral=0.0, derivative=0.0)
    assert close(ours, final("sgd", **SGD))


def test_pid_without_its_derivative_is_sgd_with_nesterov_momentum():
    """Where the integral's gain is the momentum."""
    h = {**SGD, "momentum": 0.8}
    nesterov = final("sgd", **h, nesterov=True)
    assert close(final("pid", **h, integral=0.8, derivative=0.0), nesterov)
    assert not close(final("pid", **h, integral=0.8, derivative=0.1), nesterov)


def test_the_derivative_of_pid_is_felt_only_where_gradients_change():
    """From the first step on: the gradient before the first is not taken for 0."""
    h = {"lr": 0.02, "momentum": 0.8, "integral": 2.0}
    for gradients, same in ((repeated(), True), (varying(), False)):
        without, with_it = (walk("pid", gradients, **h, derivative=d) for d in (0.0, 9.0))
        assert torch.equal(without, with_it) is same


def test_qhadam_with_both_nus_1_is_adam():
    """Whatever eps."""
    adam = final("adam", **ADAM, eps=1e-3)
    assert close(final("qhadam", **ADAM, eps=1e-3, nus=(1.0, 1.0)), adam)
    assert not close(final("qhadam", **ADAM, eps=1e-3, nus=(0.9, 1.0)), adam)
    assert not close(final("qhadam", **ADAM, eps=1e-3, nus=(1.0, 0.9)), adam)


def test_qhadam_with_both_nus_0_moves_by_the_sign_of_the_gradient():
    """As Lion does without momentum."""
    ours = walk("qhadam", varying(), lr=0.05, betas=(0.8, 0.95), nus=(0.0, 0.0), eps=0.0)
    assert torch.allclose(ours, walk("lion", varying(), lr=0.05, betas=(0.0, 0.0)), rtol=1e-12)


def test_adamod_without_memory_of_its_rates_is_adamw():
    """With beta3 0 the bound is the rate itself; without eps, which AdaMod adds elsewhere."""
    adamw = final("adamw", **ADAM, eps=0.0)
    assert close(final("adamod", **ADAM, eps=0.0, beta3=0.0), adamw)
    assert not close(final("adamod", **ADAM, eps=0.0, beta3=0.1), adamw)


def test_adamod_begins_with_a_small_part_of_the_step_of_adamw():
    """The average of rates starts at 0 and is not corrected: 1 - beta3 of the first step."""
    h = {"lr": 0.05, "weight_decay": 0.0, "eps": 0.0}
    first = walk("adamod", varying(1), **h, beta3=0.99)
    assert torch.allclose(first, walk("adamw", varying(1), **h) * (1 - 0.99), rtol=1e-9)


def test_diffgrad_of_fast_changing_gradients_is_adam():
    """Changes far above 1 leave no friction."""
    gradients = [1e6 * g for g in varying()]
    h = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.0}
    assert torch.allclose(walk("diffgrad", gradients, **h), walk("adam", gradients, **h), 1e-12)
    assert not torch.allclose(walk("diffgrad", varying(), **h), walk("adam", varying(), **h), 0.1)


def test_diffgrad_of_a_lasting_gradient_takes_half_the_steps_of_adam():
    """From the second step on; a constant gradient has the largest friction there is."""
    h = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.0}
    ours, adam = (walk(name, repeated(), **h).diff(dim=0) for name in ("diffgrad", "adam"))
    assert torch.allclose(ours, adam / 2, rtol=1e-9)


def test_the_first_step_of_madgrad_is_a_cube_root():
    """1 - momentum of the cube root of lr^2 times the gradient."""
    first = walk("madgrad", varying(1), lr=0.05, momentum=0.7, eps=0.0)[0]
    (g,) = varying(1)
    expected = -(1 - 0.7) * 0.05 ** (2 / 3) * g.sign() * g.abs() ** (1 / 3)
    assert torch.allclose(first, expected, rtol=1e-9)


def test_madgrad_moves_twice_as_far_for_gradients_eight_times_as_large():
    """And four times as far for eight times the lr."""
    h = {"momentum": 0.7, "eps": 0.0}
    path = walk("madgrad", varying(), lr=0.05, **h)
    larger = walk("madgrad", [8 * g for g in varying()], lr=0.05, **h)
    assert torch.allclose(larger, 2 * path, rtol=1e-9)
    assert torch.allclose(walk("madgrad", varying(), lr=0.4, **h), 4 * path, rtol=1e-9)


def test_madgrad_without_eps_waits_where_no_gradient_has_come():
    """0 / 0 counts as 0, there and only there."""
    gradients = varying()
    for g in gradients:
        g[0] = 0.0
    path = walk("madgrad", gradients, lr=0.05, eps=0.0)
    assert torch.isfinite(path).all()
    assert (path[:, 0] == 0).all()
    assert (path[:, 1:] != 0).all()


def test_rprop_reads_signs_alone():
    """Gradients of any size and the same signs take the same path, bit for bit."""
    resized = [g * math.pi ** (t - 4) for t, g in enumerate(varying())]
    assert torch.equal(walk("rprop", varying()), walk("rprop", resized))
    turned = [-g if t == 4 else g for t, g in enumerate(varying())]
    assert not torch.equal(walk("rprop", varying()), walk("rprop", turned))


def test_steps_of_rprop_grow_geometrically_until_the_sign_turns():
    """By the larger eta; where the sign turns, an element waits for one step."""
    g = varying(1)[0]
    steps = walk("rprop", [g, g, g, -g, -g], lr=0.01, etas=(0.5, 1.2)).diff(dim=0)
    sizes = torch.tensor([0.01 * 1.2, 0.01 * 1.2**2, 0.0, -0.01 * 1.2**2 * 0.5]).double()
    assert torch.allclose(steps, -sizes[:, None, None] * g.sign(), rtol=1e-9)


def test_the_lr_of_rprop_counts_at_the_first_step_alone():
    """A schedule changes nothing, the first value everything."""

    def run(first: float, later: float) -> torch.Tensor:
        p = make_parameter(MATRIX, 0, torch.float64)
        optimizer = ob.create_optimizer([p], "rprop", lr=first)
        for g in varying():
            p.grad = g
            optimizer.step()
            optimizer.param_groups[0]["lr"] = later
        return p.detach()

    assert torch.equal(run(0.01, 0.01), run(0.01, 5.0))
    assert torch.equal(run(0.0, 0.01), run(1e-7, 0.01))  # both begin at the smallest step size
    assert not torch.allclose(run(0.01, 0.01), run(0.02, 0.01))


@pytest.mark.parametrize(
    ("name", "h", "message"),
    [
        ("rprop", {"etas": (1.2, 0.5)}, r"etas=\(1.2, 0.5\)"),
        ("rprop", {"step_sizes": (1.0, 0.1)}, r"step_sizes=\(1.0, 0.1\)"),
        ("accsgd", {"kappa": 50.0, "xi": 10.0}, "xi=10.0 must be at most the root of kappa=50.0"),
        ("aggmo", {"betas": (0.9, 0.99)}, "betas=.*3 values"),
        ("pid", {"momentum": 0.0}, "momentum=0.0"),
    ],
)
def test_hyperparameters_that_do_not_fit_together_are_refused(name, h, message):
    """With what was expected."""
    with pytest.raises(ValueError, match=message):
        ob.create_optimizer([make_parameter(MATRIX, 0, torch.float32)], name, **h)
