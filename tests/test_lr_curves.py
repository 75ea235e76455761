"""What curves over lrs and over steps tell, worked by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from optbench_llm.leaderboard.lr_curves import (
    EquivalentSteps,
    best_of,
    equivalent_steps,
    lr_tolerance,
    sensitivity,
)

CURVE = {1e-5: 3.9, 1e-4: 3.5, 3.16e-4: 3.2, 1e-3: 3.0, 3.16e-3: 3.4, 1e-2: 6.0, 3.16e-2: math.inf}


def test_sensitivity_is_the_mean_within_a_decade_less_the_best():
    """Nothing counts as worse than the untouched model, lrs further away do not count."""
    expected = (3.5 + 3.2 + 3.0 + 3.4 + 4.0) / 5 - 3.0
    assert sensitivity(CURVE, 1e-3, initial_loss=4.0) == pytest.approx(expected)


@pytest.mark.parametrize("failure", [math.inf, math.nan])
def test_a_failure_counts_as_the_untouched_model(failure):
    """As if the run had learned nothing."""
    curve = {1e-3: 3.0, 1e-2: failure}
    assert sensitivity(curve, 1e-3, initial_loss=4.0) == pytest.approx(0.5)


def test_rounded_lrs_are_still_a_decade_apart():
    """9.99e-5 and 1e-3 are neighbours in a search of three digits; 2e-2 is too far."""
    curve = {9.99e-5: 3.4, 1e-3: 3.0, 1e-2: 3.2, 2e-2: 3.9}
    assert sensitivity(curve, 1e-3, initial_loss=4.0) == pytest.approx(0.2)


def test_sensitivity_needs_an_lr_near_the_best():
    """The message names it."""
    with pytest.raises(ValueError, match=r"within a decade of 10"):
        sensitivity(CURVE, 10.0, initial_loss=4.0)


def test_tolerance_is_where_the_curve_crosses():
    """5 % of a gain of 2 is 0.1: half a step down of 0.2, a quarter of one of 0.4."""
    curve = {10**-4.0: 3.5, 10**-3.5: 3.2, 10**-3.0: 3.0, 10**-2.5: 3.4, 10**-2.0: 6.0}
    assert lr_tolerance(curve, gain_of_baseline=2) == pytest.approx(0.25 + 0.125)
    shuffled = dict(sorted(curve.items(), key=lambda point: point[1]))
    assert lr_tolerance(shuffled, gain_of_baseline=2) == pytest.approx(0.25 + 0.125)
    # 5 % of 6 is 0.3: 0.5 and a third of 0.5 below, three quarters of 0.5 above.
    assert lr_tolerance(curve, gain_of_baseline=6) == pytest.approx(0.5 + 0.5 / 3 + 0.375)


@pytest.mark.parametrize("end", [math.inf, math.nan])
def test_tolerance_ends_at_the_last_measured_lr(end):
    """Neither beyond the curve, nor between a success and a failure."""
    curve = {10**-4.0: 3.01, 10**-3.5: 3.0, 10**-3.0: 3.02, 10**-2.5: end, 10**-2.0: 3.0}
    assert lr_tolerance(curve, gain_of_baseline=2) == pytest.approx(1.0)


def test_tolerance_stops_at_the_first_crossing():
    """A second valley is not tolerance of the first."""
    curve = {10**-4.0: 3.0, 10**-3.5: 3.4, 10**-3.0: 3.05, 10**-2.5: 3.05}
    assert lr_tolerance(curve, gain_of_baseline=2) == pytest.approx(0.125)


def test_where_all_lrs_failed_none_is_tolerated():
    """Zero decades."""
    assert lr_tolerance({1e-3: math.inf, 1e-2: math.nan}, gain_of_baseline=2) == 0


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_best_of_k_is_the_mean_over_all_choices_of_k(k):
    """Every choice of k lrs keeps the one best on validation."""
    rng = np.random.default_rng(0)
    validation, test = rng.random(5), rng.random(5)
    kept = [test[min(chosen, key=lambda i: validation[i])] for chosen in combinations(range(5), k)]
    assert best_of(k, list(validation), list(test)) == pytest.approx(np.mean(kept))


def test_a_failed_lr_counts_only_where_it_may_be_kept():
    """Of two of three, one of which failed, the failed one is never the better."""
    validation, test = [math.inf, 3.0, 3.2], [math.inf, 3.1, 3.3]
    assert best_of(2, validation, test) == pytest.approx((2 * 3.1 + 3.3) / 3)
    assert best_of(1, validation, test) == math.inf


@pytest.mark.parametrize("k", [0, 4])
def test_best_of_more_lrs_than_there_are_is_refused(k):
    """With the number there is."""
    with pytest.raises(ValueError, match="expected 1 to 3"):
        best_of(k, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("loss", "steps", "bound"),
    [
        (3.2, 75, None),
        (3.0, 150, None),
        (3.1, 75 * 2**0.5, None),
        (2.9, 150 * 2**0.5, None),
        (2.8, 300, None),
        (3.3, 75, "at most"),
        (2.7, 300, "at least"),
    ],
)
def test_equivalent_steps_lie_between_measured_ones(loss, steps, bound):
    """Half-way in loss is half-way in the logarithm of steps; outside there is only a bound."""
    found = equivalent_steps([75, 150, 300], [3.2, 3.0, 2.8], loss)
    assert found == EquivalentSteps(pytest.approx(steps), bound)


def test_equivalent_steps_are_the_fewest():
    """Where longer training does worse again."""
    assert equivalent_steps([75, 150, 300], [3.2, 3.0, 3.4], 3.1).steps == pytest.approx(
        75 * 2**0.5
    )
    assert equivalent_steps([75, 150, 300], [3.2, 3.0, 3.4], 2.9) == EquivalentSteps(
        300, "at least"
    )
