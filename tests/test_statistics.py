"""What a board may claim, recomputed with scipy and by hand; nothing breaks without noise."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from optbench_llm.leaderboard.statistics import (
    Difference,
    a_a,
    compare,
    holm,
    loss_intervals,
    loss_intervals_with_records,
    moderated,
    noise_between_seeds,
    rank_intervals,
)


def board(rows: int, seeds: int = 5, spread: float = 0.0, seed: int = 0) -> np.ndarray:
    """Losses about 3 with noise 0.01 between seeds, that of rows differing by ``spread``."""
    rng = np.random.default_rng([seed, rows, seeds])
    noise = 0.01 * np.exp(spread * rng.standard_normal((rows, 1)))
    shared = 0.02 * rng.standard_normal(seeds)
    means = 3 + 0.02 * rng.standard_normal((rows, 1))
    return means + shared + noise * rng.standard_normal((rows, seeds))


def compared(losses: np.ndarray, baseline: int = 0, margin: float = 0.0) -> list[Difference]:
    """All differences to the baseline, without its own place."""
    found = compare(losses, baseline, [margin] * len(losses))
    assert found[baseline] is None
    return [one for one in found if one is not None]


def numbers(differences: list[Difference]) -> np.ndarray:
    """Differences as rows of numbers."""
    return np.array(
        [[d.difference, d.low, d.high, d.p, d.p_adjusted, d.differs] for d in differences]
    )


def test_holm_of_a_worked_example():
    """The textbook's four p-values, in any order."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.8, 0.9]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_variances_leave_out_what_seeds_share():
    """Worked by hand: two rows, whose differences are 1, 3, 5 of variance 4, half of it each."""
    found = moderated([[11, 23, 35], [10, 20, 30]])
    assert found.variances == pytest.approx([2, 2])
    assert (found.df, found.common) == (2, pytest.approx(2))
    assert noise_between_seeds([[11, 23, 35], [10, 20, 30]]) == pytest.approx(2**0.5)


def test_one_row_has_its_own_variance():
    """Nothing tells what is shared."""
    found = moderated([[1.0, 2.0, 3.0]])
    assert found.variances == pytest.approx([1])
    assert (found.df, found.common) == (2, pytest.approx(1))


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_variances_are_moderated_as_smyth_does(spread):
    """The prior fits the mean and the variance of log s2, here found by another optimizer."""
    losses = board(200, spread=spread)
    d = 4
    effects = losses.mean(1, keepdims=True) + losses.mean(0) - losses.mean()
    s2 = ((losses - effects) ** 2).sum(1) / d * 200 / 199
    # s2 is s0^2 times a value of F(d, d0), whose quantiles give the moments of its logarithm.
    z = np.log(s2)

    def misfit(logs):
        d0, s02 = np.exp(logs)
        u = (np.arange(4000) + 0.5) / 4000
        log_f = np.log(s02) + np.log(stats.f.ppf(u, d, d0))
        return (log_f.mean() - z.mean()) ** 2 + (log_f.var() - z.var(ddof=1)) ** 2

    d0, s02 = np.exp(minimize(misfit, [1, -9], method="Nelder-Mead", tol=1e-10).x)
    found = moderated(losses)
    assert found.df == pytest.approx(d + d0 / 2, rel=0.02)
    assert found.common == pytest.approx(s02, rel=0.02)
    prior = found.df - d
    expected = (prior * found.common + d * s2) / (prior + d)
    assert found.variances == pytest.approx(expected, rel=1e-9)


def test_equal_noise_is_pooled():
    """Then the prior has the degrees of freedom of all rows together, halved."""
    losses = board(30)
    rng = np.random.default_rng(3)
    pattern = rng.permuted(np.tile([1.0, -1.0, 0.5, -0.5, 0.0], (30, 1)), axis=1)
    pattern -= pattern.mean(0)
    found = moderated(3 + 0.01 * pattern)
    assert found.df == 4 + 29 * 4 / 2
    assert noise_between_seeds(losses) == pytest.approx(0.01, rel=0.15)


def test_an_effect_of_a_seed_changes_no_difference():
    """All rows met the same data: an unlucky order of it is nobody's fault."""
    for rows in (2, 6, 12):
        losses = board(rows)
        moved = losses + np.array([0.3, -1.0, 2.0, 0.0, 0.7])
        assert numbers(compared(moved)) == pytest.approx(numbers(compared(losses)), rel=1e-6)
        assert noise_between_seeds(moved) == pytest.approx(noise_between_seeds(losses))
        margins = [0.001] * rows
        assert rank_intervals(moved, margins) == rank_intervals(losses, margins)


@pytest.mark.parametrize("rows", [6, 12])
def test_results_follow_their_rows(rows):
    """Permuting rows and their margins permutes results."""
    losses, order = board(rows), np.random.default_rng(1).permutation(rows)
    margins = np.linspace(0, 0.03, rows)
    there = compare(losses[order], int(np.argmax(order == 2)), list(margins[order]))
    here = compare(losses, 2, list(margins))
    for place, row in enumerate(order):
        one, other = there[place], here[row]
        if row == 2:
            assert one is None
        else:
            assert one is not None
            assert other is not None
            assert numbers([one]) == pytest.approx(numbers([other]))
    ranks = rank_intervals(losses, list(margins))
    assert rank_intervals(losses[order], list(margins[order])) == [ranks[row] for row in order]
    intervals = np.array(loss_intervals(losses))
    assert np.array(loss_intervals(losses[order])) == pytest.approx(intervals[order])


@pytest.mark.parametrize("rows", [6, 12])
def test_the_unit_of_loss_is_no_matter(rows):
    """Losses in bits give the same claims as losses in nats."""
    losses = board(rows)
    nats, bits = compared(losses, margin=0.002), compared(losses * 1.4427, margin=0.002 * 1.4427)
    scale = [1.4427, 1.4427, 1.4427, 1, 1, 1]
    assert numbers(bits) == pytest.approx(numbers(nats) * scale)


def test_a_small_board_takes_paired_t():
    """scipy's paired t gives the interval, and p where no margin is in the way."""
    losses = board(6)
    losses[4:] += 0.2
    half_noise = noise_between_seeds(losses) / 2
    found = compared(losses)
    p = []
    for row, one in enumerate(found, start=1):
        reference = stats.ttest_rel(losses[row], losses[0])
        interval = reference.confidence_interval()
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
        paired = losses[row] - losses[0]
        beyond = (abs(paired.mean()) - half_noise) / stats.sem(paired)
        p.append(min(1, 2 * stats.t.sf(beyond, 4)))
        assert one.p == pytest.approx(p[-1])
        assert one.difference == pytest.approx(paired.mean())
    assert [one.p_adjusted for one in found] == pytest.approx(holm(p))
    assert [one.differs for one in found] == [one.p_adjusted < 0.05 for one in found]
    assert {one.differs for one in found} == {True, False}


def test_a_large_board_takes_moderated_t():
    """Welch's and Satterthwaite's degrees of freedom; recomputed row by row."""
    losses, margins = board(12, spread=0.7), list(np.linspace(0, 0.02, 12))
    noise = moderated(losses)
    found = compare(losses, 3, margins)
    p = {}
    for row in range(12):
        one = found[row]
        if one is None:
            assert row == 3
            continue
        mine, base = noise.variances[row] / 5, noise.variances[3] / 5
        error = math.sqrt(mine + base)
        df = (mine + base) ** 2 / (mine**2 / noise.df + base**2 / noise.df)
        difference = losses[row].mean() - losses[3].mean()
        assert (one.low, one.high) == pytest.approx(
            stats.t.interval(0.95, df, loc=difference, scale=error)
        )
        margin = max(noise.common**0.5 / 2, (margins[row] + margins[3]) / 2)
        p[row] = min(1, 2 * stats.t.sf((abs(difference) - margin) / error, df))
        assert one.p == pytest.approx(p[row])
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    assert all(one is None or one.p_adjusted == pytest.approx(adjusted[row])
               for row, one in enumerate(found))  # fmt: skip


@pytest.mark.parametrize("rows", [6, 12])
def test_what_the_search_may_hide_is_no_difference(rows):
    """Rows that differ by 0.1 do, until their lrs are known only to within 0.1 of loss."""
    losses = board(rows)
    losses[1] = losses[0] + 0.1 + (losses[1] - losses[1].mean()) * 0.1
    assert compared(losses)[0].differs
    assert not compared(losses, margin=0.1)[0].differs
    halves = [0.2] + [0.0] * (rows - 1)
    hidden = compare(losses, 0, halves)[1]
    assert hidden is not None
    assert not hidden.differs


def test_less_than_half_the_noise_is_no_difference():
    """However many seeds show it."""
    rng = np.random.default_rng(0)
    losses = 3 + 0.01 * rng.standard_normal((12, 2000))
    losses[1] += 0.004
    losses[2] += 0.008
    slight, clear = compared(losses)[:2]
    assert slight.low > 0
    assert (slight.differs, clear.differs) == (False, True)


@pytest.mark.parametrize("rows", [6, 14])
def test_rank_intervals_count_who_is_better_and_worse(rows):
    """All pairs, each row against each, recomputed one by one."""
    losses = board(rows, spread=0.3)
    losses[: rows // 2] += 0.05
    margins = list(np.linspace(0, 0.004, rows))
    pairs = list(combinations(range(rows), 2))
    p = []
    for one, other in pairs:
        difference = compare(losses, other, margins)[one]
        assert difference is not None
        p.append(difference.p)
    better, worse = np.zeros(rows, int), np.zeros(rows, int)
    for (one, other), adjusted in zip(pairs, holm(p), strict=True):
        if adjusted < 0.05:
            low, high = sorted((one, other), key=lambda row: losses[row].mean())
            better[high] += 1
            worse[low] += 1
    assert better.any()
    expected = [(1 + b, rows - w) for b, w in zip(better, worse, strict=True)]
    assert rank_intervals(losses, margins) == expected


def test_a_clear_order_has_its_ranks():
    """Losses far apart: each row has one rank; losses alike: any."""
    losses = board(12)
    losses += 10 * np.arange(12)[::-1, None]
    assert rank_intervals(losses, [0.0] * 12) == [(rank, rank) for rank in range(12, 0, -1)]
    assert rank_intervals(losses, [1e6] * 12) == [(1, 12)] * 12


def test_the_interval_of_a_loss_is_that_of_its_own_seeds():
    """scipy's t interval; what other rows did is no matter."""
    losses = board(12)
    for row, interval in zip(losses, loss_intervals(losses), strict=True):
        expected = stats.t.interval(0.95, 4, loc=row.mean(), scale=stats.sem(row))
        assert interval == pytest.approx(expected)
        assert loss_intervals(row[None]) == [pytest.approx(expected)]


def test_the_interval_of_a_loss_covers_what_seeds_share():
    """Over seeds that move all rows alike, 95 % of intervals hold the expected loss."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        shared = 0.03 * rng.standard_normal(5)
        (low, high), *_ = loss_intervals(3 + shared + 0.01 * rng.standard_normal((12, 5)))
        held += low <= 3 <= high
    assert 930 <= held <= 970


def test_records_widen_the_interval_of_a_loss():
    """Worked by hand: records of 1, 1 and 2 tokens with losses 2, 4, 3, without noise of seeds."""
    # Their ratio is 3, its variance 3/2 x ((1 x -1)^2 + (1 x 1)^2 + 0) / 4^2.
    (interval,) = loss_intervals_with_records([[3.0, 3.0]], [[2.0, 4.0, 3.0]], [1, 1, 2])
    half = stats.t.ppf(0.975, 2) * math.sqrt(3 / 16)
    assert interval == pytest.approx((3 - half, 3 + half))


def test_equal_records_add_no_variance():
    """Nor do records without tokens, whose loss is unknown; the interval is that over seeds."""
    losses = board(3)
    records = np.repeat(losses.mean(1, keepdims=True), 9, axis=1)
    records[:, 4] = np.nan
    tokens = np.array([1, 2, 3, 4, 0, 6, 7, 8, 9])
    found = loss_intervals_with_records(losses, records, tokens)
    assert np.array(found) == pytest.approx(np.array(loss_intervals(losses)))


def test_intervals_with_records_cover_what_other_records_would_give():
    """Records of unequal length, seeds with noise: 95 % hold the expected loss."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        tokens = rng.integers(5, 60, 80)
        of_records = 3 + 0.5 * rng.standard_normal(80)
        losses = np.average(of_records, weights=tokens) + 0.05 * rng.standard_normal((1, 5))
        per_record = of_records[None] + losses.mean() - np.average(of_records, weights=tokens)
        ((low, high),) = loss_intervals_with_records(losses, per_record, tokens)
        held += low <= 3 <= high
    assert 930 <= held <= 970


def test_the_baseline_twice_is_one_comparison():
    """A/A goes by the p of this comparison, which no other row makes larger."""
    told = Difference(0.1, 0.05, 0.15, margin=0.01, p=0.04, p_adjusted=0.8, differs=False)
    assert a_a(told)
    assert not a_a(replace(told, p=0.06, p_adjusted=0.06))


def test_the_margin_of_a_claim_is_half_the_noise_or_the_mean_of_what_two_searches_hide():
    losses = 3 + 0.01 * np.random.default_rng(0).standard_normal((12, 5))
    hidden = [0.0] * 10 + [0.001, 1.0]
    compared = compare(losses, 10, hidden)
    noise = noise_between_seeds(losses)
    margins = [found.margin for found in compared if found is not None]
    assert margins == pytest.approx([noise / 2] * 10 + [0.5005])


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 3, 9, 10, 25])
@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(lambda rows, seeds: np.zeros((rows, seeds)), id="all zero"),
        pytest.param(lambda rows, seeds: np.full((rows, seeds), 0.1), id="all equal"),
        pytest.param(
            lambda rows, seeds: np.repeat(np.arange(rows)[:, None] / 7, seeds, 1), id="no noise"
        ),
        pytest.param(lambda rows, seeds: np.tile(board(1, seeds), (rows, 1)), id="one row often"),
        pytest.param(
            lambda rows, seeds: np.vstack([board(1, seeds)] * 2 + [board(rows, seeds)])[:rows],
            id="two rows alike",
        ),
        pytest.param(
            lambda rows, seeds: board(rows, seeds) * np.r_[1e9, np.ones(rows - 1)][:, None],
            id="one row far off",
        ),
        pytest.param(lambda rows, seeds: board(rows, seeds) * 1e-12, id="tiny"),
    ],
)
def test_numbers_stay_numbers(losses, rows, seeds):
    """With few rows and seeds and without noise: no NaN, no warning, no claim about equals."""
    losses = losses(rows, seeds)
    with np.errstate(all="raise", under="ignore"):
        found = compared(losses)
        ranks = rank_intervals(losses, [0.0] * rows)
        intervals = loss_intervals(losses)
        noise = noise_between_seeds(losses)
    assert len(found) == rows - 1
    assert np.isfinite(numbers(found)).all()
    assert np.isfinite(intervals).all()
    assert np.isfinite(noise)
    assert all(1 <= best <= worst <= rows for best, worst in ranks)
    for row, one in enumerate(found, start=1):
        assert one.low <= one.difference <= one.high
        if (losses[row] == losses[0]).all():
            assert not one.differs


@pytest.mark.parametrize("rows", [4, 12])
def test_differences_without_noise_are_claimed(rows):
    """Where every seed says the same, the rows do differ."""
    losses = np.repeat(np.arange(rows)[:, None] / 7, 5, 1)
    assert all(one.differs for one in compared(losses))
    assert rank_intervals(losses, [0.0] * rows) == [(i, i) for i in range(1, rows + 1)]


@pytest.mark.parametrize("losses", [[[1.0], [2.0]], [1.0, 2.0], [[1.0, math.nan], [2.0, 2.0]]])
def test_losses_without_a_spread_are_refused(losses):
    """One seed has none, and a failed trial is not a number to average."""
    for function in (moderated, noise_between_seeds, loss_intervals):
        with pytest.raises(ValueError, match=r"at least 2 seeds|must be finite"):
            function(losses)
    with pytest.raises(ValueError, match=r"at least 2 seeds|must be finite"):
        compare(losses, 0, [0.0, 0.0])


@pytest.mark.parametrize(
    ("records", "tokens", "words"),
    [([[1.0, 2.0]], [3, 0], "1 records"), ([[1.0, math.inf]], [3, 4], "must be finite")],
)
def test_records_without_a_variance_are_refused(records, tokens, words):
    """One record tells nothing of others."""
    with pytest.raises(ValueError, match=words):
        loss_intervals_with_records([[1.0, 2.0]], records, tokens)


def test_a_board_of_seventy_rows_takes_no_time():
    """All 2,415 pairs in a fifth of a second."""
    losses, margins = board(70), [0.001] * 70
    rank_intervals(losses, margins)
    start = time.perf_counter()
    compare(losses, 0, margins)
    rank_intervals(losses, margins)
    loss_intervals(losses)
    assert time.perf_counter() - start < 0.2


def test_torch_is_not_needed():
    """Statistics and the search load neither torch nor scipy until they compute."""
    code = (
        "import sys; from optbench_llm.leaderboard import lr_curves, search, statistics; "
        "print([m for m in ('torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
