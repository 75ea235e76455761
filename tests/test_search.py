"""The search over learning rates: its path depends on losses alone, and ends near the best lr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from optbench_llm.leaderboard.search import Found, found, next_lrs, path, rounded

Loss = Callable[[float], float]
COARSE = (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2)


def parabola(best: float, curvature: float = 20.0, fails_above: float = math.inf) -> Loss:
    """Loss 3 at ``best`` (log10), failures above another one."""
    return lambda lr: (
        math.inf if math.log10(lr) > fails_above else 3 + curvature * (math.log10(lr) - best) ** 2
    )


def searched(loss: Loss, declared: float = 1e-3, trials: int = 8) -> dict[float, float]:
    """All losses of a search whose trials run one after another."""
    losses: dict[float, float] = {}
    while asked := next_lrs(losses, declared, trials):
        losses[asked[0]] = loss(asked[0])
    return losses


def noisy_curves() -> Iterator[tuple[Loss, float]]:
    """Noisy losses, flat and steep, some with failures, and declared lrs."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        best, steep = rng.uniform(-4, -2), rng.choice([0, 1, 30])
        failing = rng.choice([math.inf, best + 0.2, best - 3, -9])
        ideal = parabola(best, steep, failing)

        def loss(lr: float, seed: int = seed, ideal: Loss = ideal) -> float:
            noise = np.random.default_rng([seed, round(lr * 1e9)]).standard_normal()
            return math.nan if seed % 7 == 0 and noise > 1.5 else ideal(lr) + noise

        yield loss, 10 ** rng.uniform(-4, -2)


@pytest.mark.parametrize(("loss", "declared"), list(noisy_curves()))
def test_any_order_of_trials_and_any_workers_give_the_same_search(loss, declared):
    """Trials end in random order, some only after others were asked for; strangers lie about."""
    alone = searched(loss, declared)
    rng = np.random.default_rng(0)
    for strangers in (0, 20):
        losses = {float(lr): -1.0 for lr in 10 ** rng.uniform(-6, 0, strangers)}
        while asked := next_lrs(losses, declared):
            ended = rng.permutation(asked)[: rng.integers(1, len(asked) + 1)]
            losses |= {float(lr): loss(float(lr)) for lr in ended}
        assert path(losses, declared) == path(alone, declared)
        assert found(losses, declared) == found(alone, declared)


@pytest.mark.parametrize("trials", [5, 6, 8, 12])
@pytest.mark.parametrize(("loss", "declared"), list(noisy_curves()))
def test_every_row_spends_the_same_trials_and_none_twice(loss, declared, trials):
    """Also where the vertex is an lr that was measured, and where all fail."""
    losses = searched(loss, declared, trials)
    assert sorted(path(losses, declared, trials)) == sorted(losses)
    assert len(losses) == trials
    assert all(lr == rounded(lr) for lr in losses)


def test_a_search_begins_half_a_decade_apart_around_the_declared_lr():
    """Five at once; those that are measured are not asked for again."""
    assert next_lrs({}, 1e-3) == COARSE
    assert next_lrs({1e-3: 3.0, 1e-2: math.nan, 5e-3: 1.0}, 1e-3) == (1e-4, 3.16e-4, 3.16e-3)
    assert path({1e-3: 3.0, 1e-2: math.nan, 5e-3: 1.0}, 1e-3) == (1e-3, 1e-2)
    assert next_lrs({}, 1.23456e-3) == (1.23e-4, 3.89e-4, 1.23e-3, 3.89e-3, 1.23e-2)


def test_the_last_trials_are_at_the_vertex_and_beside_it():
    """The vertex of the best three, which for a parabola is its minimum."""
    losses = {lr: parabola(-3.1)(lr) for lr in COARSE}
    assert next_lrs(losses, 1e-3) == (rounded(10**-3.3), rounded(10**-2.9), rounded(10**-3.1))


def test_a_vertex_that_was_measured_is_not_measured_again():
    """Another lr between takes its place."""
    losses = {lr: parabola(-3)(lr) for lr in COARSE}
    asked = next_lrs(losses, 1e-3)
    assert asked[:2] == (rounded(10**-3.2), rounded(10**-2.8))
    assert asked[2] == rounded(10**-3.1)


@pytest.mark.parametrize(
    ("best", "beyond", "fine"),
    [
        (-4.1, (rounded(10**-4.5),), 2),
        (-4.6, (rounded(10**-4.5), 1e-5), 1),
        (-1.4, (rounded(10**-1.5), 1e-1), 1),
        (-9, (rounded(10**-4.5), 1e-5, rounded(10**-5.5)), 0),
    ],
)
def test_a_search_goes_beyond_the_edge_that_is_best(best, beyond, fine):
    """One at a time, as long as trials are left; then it says that it ended at an edge."""
    losses = searched(parabola(best))
    assert path(losses, 1e-3)[5 : 5 + len(beyond)] == beyond
    assert len(losses) == 5 + len(beyond) + fine
    result = found(losses, 1e-3)
    assert result is not None
    assert (result.at_lower_edge, result.at_upper_edge) == (fine == 0, False)
    if fine:
        assert math.log10(result.lr) == pytest.approx(best, abs=0.0025)
    else:
        assert result == Found(rounded(10**-5.5), 0.0, True, False)


def test_an_upper_edge_is_told():
    """Where the highest lr that was tried is the best."""
    result = found(searched(parabola(9)), 1e-3)
    assert result == Found(rounded(10**-0.5), 0.0, False, True)


@pytest.mark.parametrize("best", [-3.31, -3.0, -2.88, -2.7])
def test_a_parabola_is_found_with_what_the_resolution_hides(best):
    """Its lr to three digits, and a hundredth of the curvature as margin."""
    result = found(searched(parabola(best, curvature=20)), 1e-3)
    assert result is not None
    assert math.log10(result.lr) == pytest.approx(best, abs=0.0025)
    assert result.lr_margin == pytest.approx(0.2)
    assert not result.at_lower_edge
    assert not result.at_upper_edge


@pytest.mark.parametrize(("loss", "declared"), list(noisy_curves()))
def test_the_lr_is_that_of_the_points_near_the_best(loss, declared):
    """Least squares over them, recomputed by normal equations."""
    losses = {lr: y if math.isfinite(y) else math.inf for lr, y in searched(loss, declared).items()}
    result = found(losses, declared)
    best = min(sorted(losses), key=lambda lr: losses[lr])
    if math.isinf(losses[best]):
        assert result is None
        return
    assert result is not None
    x = np.log10(list(losses)) - math.log10(best)
    y = np.array(list(losses.values()))
    near = (abs(x) <= 0.55) & np.isfinite(y)
    design = x[near, None] ** [2, 1, 0]
    if near.sum() < 4:
        assert result.lr_margin == 0
        return
    a, b, _ = np.linalg.solve(design.T @ design, design.T @ y[near])
    if a > 0:
        failed = x[np.isinf(y)] / 2
        low = max([-0.3, *failed[failed < 0]])
        high = min([0.3, *failed[failed > 0]])
        assert result.lr_margin == pytest.approx(0.01 * a, rel=1e-6)
        assert result.lr == rounded(best * 10 ** np.clip(-b / (2 * a), low, high))
    else:
        assert result.lr_margin == 0
        assert abs(math.log10(result.lr / best)) <= 0.25


def test_nothing_is_found_before_the_search_has_ended():
    """However good the losses so far."""
    losses = searched(parabola(-3))
    for lr in losses:
        assert found({k: v for k, v in losses.items() if k != lr}, 1e-3) is None


@pytest.mark.parametrize("failure", [math.inf, math.nan])
def test_where_all_fail_a_search_goes_lower_and_finds_nothing(failure):
    """A lower lr is what helps against divergence."""
    losses = searched(lambda lr: failure)
    assert path(losses, 1e-3)[5:] == (rounded(10**-4.5), 1e-5, rounded(10**-5.5))
    assert found(losses, 1e-3) is None
    rescued = dict.fromkeys(COARSE, failure) | {rounded(10**-4.5): 3.0}
    assert next_lrs(rescued, 1e-3) == (1e-5,)


def test_beside_a_failure_the_search_stays_about_the_best_and_off_the_failure():
    """No parabola goes through a failed lr; the found one is at most half-way to it."""
    losses = {lr: parabola(-2.4, fails_above=-2.9)(lr) for lr in COARSE}
    asked = next_lrs(losses, 1e-3)
    assert asked == (rounded(10**-3.2), rounded(10**-2.8), rounded(10**-3.1))
    result = found(searched(parabola(-2.4, fails_above=-2.9)), 1e-3)
    assert result is not None
    assert result.lr == rounded(10**-2.9)
    assert not result.at_upper_edge


def test_below_the_best_a_failure_is_kept_off_as_well():
    """The parabola's vertex is nearer to the failure than half-way: the lr is half-way."""
    losses = searched(lambda lr: math.inf if lr < 5e-4 else parabola(-3.4)(lr))
    assert min(losses, key=lambda lr: losses[lr]) == pytest.approx(6.31e-4, rel=0.01)
    result = found(losses, 1e-3)
    assert result is not None
    half_way = (math.log10(6.31e-4) + math.log10(3.16e-4)) / 2
    assert math.log10(result.lr) == pytest.approx(half_way, abs=0.003)


def test_the_scale_of_lr_is_no_matter():
    """A search a decade higher finds a decade more."""
    for loss, declared in noisy_curves():
        there = {}
        while asked := next_lrs(there, declared * 10):
            there |= {lr: loss(rounded(lr / 10)) for lr in asked}
        here, result = found(searched(loss, declared), declared), found(there, declared * 10)
        assert (here is None) == (result is None)
        if here is not None and result is not None:
            assert result.lr == pytest.approx(here.lr * 10, rel=0.006)


@pytest.mark.parametrize(
    ("declared", "trials"), [(0.0, 8), (-1.0, 8), (math.nan, 8), (1e-3, 4), (1e-3, 13)]
)
def test_a_search_that_cannot_begin_is_refused(declared, trials):
    """With the value in the message."""
    with pytest.raises(ValueError, match=r"declared lr is|of (4|13) trials"):
        next_lrs({}, declared, trials)
