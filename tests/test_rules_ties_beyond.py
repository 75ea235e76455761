"""Laws of the rules that came after the first catalog: what they become in their limits.

Gradients here do not depend on the parameters, so rules with the same moments share them along
different paths, and their steps can be compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from oracles.inputs import gradient, parameter
from torch import Tensor

import optbench_llm as ob
from optbench_llm.rules.ademamix import warmed_beta
from optbench_llm.rules.radam import rectification

SHAPE = (5, 8)
STEPS = 16
#: None of their elements is 0, whose sign would agree with nothing.
GRADIENTS = [torch.from_numpy(gradient(SHAPE, 0, t)) + 2**-12 for t in range(1, STEPS + 1)]
#: Every element keeps the sign of its first gradient.
LASTING = [g.abs() * GRADIENTS[0].sign() for g in GRADIENTS]
ADAM: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}
ADAMW: dict[str, Any] = {**ADAM, "weight_decay": 0.2}
NO_DECAY: dict[str, Any] = {**ADAM, "weight_decay": 0.0}
AVERAGED: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.2, "r": 0.5, "weight_lr_power": 1.5}


def walk(
    name: str,
    gradients: Sequence[Tensor] = GRADIENTS,
    lrs: Sequence[float] | None = None,
    evaluate: bool = False,
    **h: Any,
) -> Tensor:
    """One weight matrix at first and after each step, in evaluation mode where asked for."""
    p = torch.nn.Parameter(torch.from_numpy(parameter(SHAPE, 0)))
    optimizer: Any = ob.create_optimizer([p], name, engine="eager", **h)
    path = [p.detach().clone()]
    for t, g in enumerate(gradients):
        if lrs is not None:
            optimizer.param_groups[0]["lr"] = lrs[t]
        p.grad = g.clone()
        optimizer.step()
        if evaluate:
            optimizer.eval()
        path.append(p.detach().clone())
        if evaluate:
            optimizer.train()
    return torch.stack(path)


def steps(name: str, gradients: Sequence[Tensor] = GRADIENTS, **h: Any) -> Tensor:
    """What each step added to the parameter."""
    return walk(name, gradients, **h).diff(dim=0)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-11, atol=1e-12)


def test_ademamix_with_alpha_0_is_adamw():
    """The slow momentum then has no say; without weight decay that is Adam too."""
    slow = {"betas": (0.8, 0.95, 0.99), "alpha": 0.0}
    assert close(walk("ademamix", **{**ADAMW, **slow}), walk("adamw", **ADAMW))
    assert close(walk("ademamix", **{**NO_DECAY, **slow}), walk("adam", **NO_DECAY))
    mixed = walk("ademamix", **{**ADAMW, **slow, "alpha": 1.0})
    assert not close(mixed, walk("adamw", **ADAMW))


def test_ademamix_beta3_grows_linearly_in_its_half_life():
    """From the start's half-life to the end's: halfway the steps to forget half are the mean."""
    start, end = 0.5, 0.5**0.2
    assert warmed_beta(start, end, 0.0) == pytest.approx(start, rel=1e-14)
    assert warmed_beta(start, end, 0.5) == pytest.approx(0.5 ** (1 / 3), rel=1e-14)
    assert warmed_beta(start, end, 1.0) == pytest.approx(end, rel=1e-14)
    assert warmed_beta(0.0, 0.0, 0.3) == 0.0


def test_ademamix_with_beta3_at_beta1_mixes_one_momentum_with_itself():
    """Without weight decay its steps are Adam's, enlarged by alpha times the bias left in."""
    h = {**NO_DECAY, "betas": (0.8, 0.95, 0.8), "alpha": 2.0}
    bias = torch.tensor([1 - 0.8**t for t in range(1, STEPS + 1)], dtype=torch.float64)
    enlarged = steps("adam", **NO_DECAY) * (1 + 2.0 * bias)[:, None, None]
    assert close(steps("ademamix", **h), enlarged)


def test_mars_with_gamma_0_is_adamw_on_gradients_shorter_than_1():
    """Nothing to correct, nothing to clip; longer gradients or a gamma lead elsewhere."""
    short = [g / 8 for g in GRADIENTS]
    assert max(g.norm() for g in short) < 1 < min(g.norm() for g in GRADIENTS)
    adamw = walk("adamw", short, **ADAMW)
    assert close(walk("mars", short, **ADAMW, gamma=0.0), adamw)
    assert not close(walk("mars", short, **ADAMW, gamma=0.05), adamw)
    long = walk("mars", **ADAMW, gamma=0.0)
    assert not close(long, walk("adamw", **ADAMW))
    normalised = [g / g.norm() for g in GRADIENTS]
    assert close(long, walk("adamw", normalised, **ADAMW))


def test_mars_corrects_by_gamma_over_one_minus_beta1():
    """Its path is AdamW's on gradients corrected by hand: the two numbers are not swapped."""
    corrected, last = [], torch.zeros(SHAPE, dtype=torch.float64)
    for g in (g / 8 for g in GRADIENTS):
        corrected.append(g + 0.05 * 0.8 / (1 - 0.8) * (g - last))
        last = g
    assert max(c.norm() for c in corrected) < 1
    short = [g / 8 for g in GRADIENTS]
    ours = walk("mars", short, **ADAMW, gamma=0.05)
    assert close(ours, walk("adamw", corrected, **ADAMW))


def test_laprop_without_momentum_is_adam_without():
    """With beta1 0 there is no order of division and momentum, whatever the lr does."""
    lrs = [0.05 / t for t in range(1, STEPS + 1)]
    h = {**NO_DECAY, "betas": (0.0, 0.95)}
    assert close(walk("laprop", lrs=lrs, **h), walk("adam", lrs=lrs, **h))
    assert not close(walk("laprop", **NO_DECAY), walk("adam", **NO_DECAY))


def test_laprop_at_a_constant_lr_is_adam_on_normalised_gradients():
    """Divided by hand first, then given to Adam's momentum with a second moment of 1."""
    v, normalised = torch.zeros(SHAPE, dtype=torch.float64), []
    for t, g in enumerate(GRADIENTS, start=1):
        v = 0.95 * v + 0.05 * g * g
        normalised.append(g / ((v / (1 - 0.95**t)).sqrt() + 1e-3))
    m, expected = torch.zeros_like(v), []
    for t, u in enumerate(normalised, start=1):
        m = 0.8 * m + 0.2 * u
        expected.append(-0.05 * m / (1 - 0.8**t))
    assert close(steps("laprop", **NO_DECAY), torch.stack(expected))


@pytest.mark.parametrize("base", ["adamw", "lion"])
def test_cautious_rules_are_their_base_while_all_signs_agree(base):
    """A full mask has mean 1; with gradients that turn the mask cuts."""
    h = ADAMW if base == "adamw" else {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.2}
    cautious = f"cautious-{base}"
    assert close(walk(cautious, LASTING, **h), walk(base, LASTING, **h))
    assert not close(walk(cautious, **h), walk(base, **h))


@pytest.mark.parametrize("base", ["adamw", "lion"])
def test_cautious_rules_never_step_against_the_gradient(base):
    """Their base does somewhere; elsewhere they step as it does, over the share that agrees."""
    h = NO_DECAY if base == "adamw" else {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.0}
    ours, theirs = steps(f"cautious-{base}", **h), steps(base, **h)
    against = theirs * torch.stack(GRADIENTS) > 0
    assert against.any()
    assert (ours[against] == 0).all()
    share = (~against).double().mean((1, 2), keepdim=True)
    assert close((ours * share)[~against], theirs[~against])


def test_grams_is_adamw_while_all_signs_agree():
    """Length and direction are then those of AdamW."""
    assert close(walk("grams", LASTING, **ADAMW), walk("adamw", LASTING, **ADAMW))
    assert not close(walk("grams", **ADAMW), walk("adamw", **ADAMW))


def test_grams_takes_adams_lengths_and_the_gradients_signs():
    """Element by element, at every step."""
    ours = steps("grams", **NO_DECAY)
    assert close(ours.abs(), steps("adamw", **NO_DECAY).abs())
    assert (ours * torch.stack(GRADIENTS) <= 0).all()


def test_grams_and_adamw_average_to_cautious_adamw_unscaled():
    """Where signs agree all three step alike, elsewhere the first two cancel out."""
    cautious = steps("cautious-adamw", **NO_DECAY)
    share = (cautious != 0).double().mean((1, 2), keepdim=True)
    mean = (steps("grams", **NO_DECAY) + steps("adamw", **NO_DECAY)) / 2
    assert close(mean, cautious * share)


def test_stableadamw_is_adamw_while_gradients_shrink():
    """Below the clip; gradients that grow are clipped."""
    shrinking = [g.abs().clamp(min=0.1) * 0.5**t for t, g in enumerate(LASTING)]
    h = {**ADAMW, "eps": 1e-8}
    assert close(walk("stableadamw", shrinking, **h), walk("adamw", shrinking, **h))
    growing = [g / 0.5 ** (2 * t) for t, g in enumerate(shrinking)]
    assert not close(walk("stableadamw", growing, **h), walk("adamw", growing, **h))


def test_stableadamw_only_shortens_adamws_steps():
    """By one factor for the whole tensor, at most 1."""
    surprised = [g * (20 if t == 9 else 1) for t, g in enumerate(GRADIENTS)]
    ours, adamw = (steps(name, surprised, **NO_DECAY) for name in ("stableadamw", "adamw"))
    factors = ours / adamw
    assert close(factors, factors[:, :1, :1].expand_as(factors))
    assert (factors <= 1 + 1e-12).all()
    assert factors[9].max() < 0.5


@pytest.mark.parametrize("evaluate", [False, True])
def test_radam_schedulefree_is_adamw_schedulefree_at_the_rectified_lr(evaluate):
    """Silent steps have an lr of 0; at the plain lr the two differ."""
    h = {**AVERAGED, "betas": (0.8, 0.95), "eps": 1e-3}
    rectified = [rectification(0.95, t, threshold=4) or 0.0 for t in range(1, STEPS + 1)]
    assert 0.0 in rectified
    assert rectified[-1] > 0
    ours = walk("radam-schedulefree", evaluate=evaluate, **h)
    lrs = [0.1 * r for r in rectified]
    assert close(ours, walk("adamw-schedulefree", lrs=lrs, evaluate=evaluate, **h))
    assert not close(ours, walk("adamw-schedulefree", evaluate=evaluate, **h))


@pytest.mark.parametrize("evaluate", [False, True])
def test_radam_schedulefree_that_is_never_rectified_is_sgd_schedulefree(evaluate):
    """A beta2 of 0.6 and less never makes the variance tractable; in silence nothing moves."""
    h = {**AVERAGED, "betas": (0.8, 0.6), "eps": 1e-3}
    ours = walk("radam-schedulefree", evaluate=evaluate, **h, silent_sgd_phase=False)
    assert close(ours, walk("sgd-schedulefree", evaluate=evaluate, **AVERAGED, momentum=0.8))
    silent = walk("radam-schedulefree", evaluate=evaluate, **h, silent_sgd_phase=True)
    assert close(silent, silent[:1].expand_as(silent))


def test_signum_without_momentum_is_sgd_on_signs():
    """signSGD; with momentum a sign may outlive its gradient."""
    signs = [g.sign() for g in GRADIENTS]
    sgd = walk("sgd", signs, lr=0.05)
    assert close(walk("signum", lr=0.05, momentum=0.0), sgd)
    assert not close(walk("signum", lr=0.05, momentum=0.8), sgd)


def test_signum_is_lion_with_equal_betas():
    """Weight decay included; Lion with two betas is another rule."""
    ours = walk("signum", lr=0.05, momentum=0.8, weight_decay=0.2)
    assert close(ours, walk("lion", lr=0.05, betas=(0.8, 0.8), weight_decay=0.2))
    assert not close(ours, walk("lion", lr=0.05, betas=(0.8, 0.95), weight_decay=0.2))


@pytest.mark.parametrize("decouple", [False, True])
def test_adopts_first_step_moves_nothing(decouple):
    """Not even by weight decay; the second does, by (1 - beta1) lr at most."""
    path = walk("adopt", **ADAMW, decouple=decouple)
    assert torch.equal(path[1], path[0])
    second = path[2] - path[1] * (1 - 0.05 * 0.2 if decouple else 1)
    assert 0 < second.abs().max() <= 0.05 * (1 - 0.8) * (1 + 1e-12)


def test_adopt_forgets_the_sign_of_its_first_gradient():
    """Only its square is kept, where no weight decay is coupled; the second one's sign counts."""
    plain = walk("adopt", **NO_DECAY)
    first = [-GRADIENTS[0], *GRADIENTS[1:]]
    assert torch.equal(walk("adopt", first, **NO_DECAY), plain)
    second = [GRADIENTS[0], -GRADIENTS[1], *GRADIENTS[2:]]
    assert not close(walk("adopt", second, **NO_DECAY), plain)


def test_adopt_divides_by_a_second_moment_that_has_not_seen_the_gradient():
    """A gradient as large as ever steps to the clip, which grows with t^(1/4)."""
    ones = torch.ones(SHAPE, dtype=torch.float64)
    path = steps("adopt", [ones, *[ones * 1e6**t for t in range(1, 6)]], lr=0.1, betas=(0.0, 0.9))
    clips = torch.tensor([(t - 1) ** 0.25 for t in range(1, 7)], dtype=torch.float64)
    assert close(path, (-0.1 * clips)[:, None, None].expand_as(path))
