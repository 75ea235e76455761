"""A board's statistics, computed again from its trials alone, by other code than its own."""

from __future__ import annotations

import math
import zlib
from itertools import combinations

import numpy as np
import pytest
from fake_board import UNTOUCHED, Fake, failed, record, tuned_recipe
from scipy import special, stats

from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord

#: Each row's best lr, and its loss there: some equal to AdamW, some better or worse.
BEST = {
    "adamw": (1e-3, 2.80), "adam": (2e-3, 2.80), "lion": (1e-4, 2.60), "lamb": (2e-3, 2.83),
    "sgd": (0.5, 2.95), "radam": (3e-4, 2.79), "nadam": (1e-3, 2.81), "adan": (2e-3, 2.80),
    "yogi": (5e-3, 2.84), "adamax": (2e-3, 2.80), "adagrad": (1e-2, 3.05),
}  # fmt: skip
SEEDS = (1, 2, 3, 4, 5)
RECORDS = 12
TOKENS = [10, 0, 7, 30, 5, 21, 9, 14, 3, 8, 40, 2]


def outcome(trial: TrialSpec) -> RunRecord:
    """A loss that is a parabola over log10(lr), twice as steep to the right, with a cliff."""
    best_lr, best = BEST[trial.spec]
    x = math.log10(trial.lr / best_lr)
    if x > 0.9:
        return failed(trial)
    rng = np.random.default_rng(zlib.crc32(trial.id.encode()))
    loss = best + (0.4 if x < 0 else 0.8) * x * x + 0.01 * rng.standard_normal()
    loss += 0.005 * trial.seed + 0.1 * math.log2(150 / (trial.max_steps or 150))
    curves = Curves(
        losses=[loss] * 4,
        test_losses=[loss + 0.3 * math.sin(7 * r) for r in range(RECORDS)],
        test_tokens=TOKENS,
    )
    return record(
        trial, train_loss=loss + 0.2, eval_loss=loss + 0.001, test_loss=loss, curves=curves,
        batches_hash=f"{trial.seed}/{trial.max_steps}",
    )  # fmt: skip


@pytest.fixture(scope="module", params=[4, 11], ids=["small", "moderated"])
def fake(request) -> Fake:
    """A board with too few rows for moderated variances, and one with enough (A/A counts)."""
    return Fake(tuned_recipe(*list(BEST)[: request.param]), outcome)


def by_label(fake: Fake) -> dict[str, np.ndarray]:
    """Test losses by seed, straight from the trials."""
    losses: dict[str, np.ndarray] = {}
    for row in fake.rows:
        label = row.entry.spec + (" A/A" if row.is_a_a else "")
        assert [trial.seed for trial in row.seeds] == list(SEEDS)
        losses[label] = np.array([fake.results[t.id].record.test_loss for t in row.seeds])
    return losses


def noise(matrix: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Variances of rows, their degrees of freedom and the common variance, as PROTOCOL says."""
    k, n = matrix.shape
    rest = matrix - matrix.mean(1, keepdims=True) - matrix.mean(0) + matrix.mean()
    own = k / (k - 1) * (rest**2).sum(1) / (n - 1)
    e = np.log(own) - special.digamma((n - 1) / 2) + np.log((n - 1) / 2)
    excess = e.var(ddof=1) - special.polygamma(1, (n - 1) / 2)
    most = (k - 1) * (n - 1)
    grid = np.exp(np.linspace(np.log(1e-2), np.log(most), 400_001))
    trigamma = special.polygamma(1, grid / 2)
    prior = most if excess <= trigamma[-1] else grid[np.argmin(np.abs(trigamma - excess))]
    common = np.exp(e.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    prior = prior / 2
    return (prior * common + (n - 1) * own) / (prior + n - 1), prior + n - 1, common


def pair(matrix: np.ndarray, margins: np.ndarray, i: int, j: int) -> tuple[float, float, float]:
    """Difference of two rows, half of its interval, p."""
    variances, df, common = noise(matrix)
    n = matrix.shape[1]
    difference = matrix[i].mean() - matrix[j].mean()
    if len(matrix) < 10:
        error, nu = (matrix[i] - matrix[j]).std(ddof=1) / math.sqrt(n), n - 1
    else:
        one, other = variances[i], variances[j]
        error = math.sqrt((one + other) / n)
        nu = df * (one + other) ** 2 / (one**2 + other**2)
    hidden = max(0.5 * math.sqrt(common), (margins[i] + margins[j]) / 2)
    p = min(1.0, 2 * stats.t.sf((abs(difference) - hidden) / error, nu))
    return difference, stats.t.ppf(0.975, nu) * error, p


def holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = worst
    return adjusted


def test_means_and_intervals_are_those_of_the_trials(fake):
    """The mean over seeds, its t interval, and the wider one with the records' variance."""
    losses = by_label(fake)
    board = fake.board()
    assert {row.label for row in board.rows} == losses.keys()
    for row in board.rows:
        values = losses[row.label]
        half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / math.sqrt(5)
        assert row.test_loss == pytest.approx(values.mean())
        assert row.verdict.test_loss_interval == pytest.approx(
            (values.mean() - half, values.mean() + half)
        )
        weights = np.array(TOKENS) / sum(TOKENS)
        records = values.mean() + 0.3 * np.sin(7 * np.arange(RECORDS))
        of_records = 11 / 10 * (weights**2 * (records - records @ weights) ** 2).sum()
        of_seeds = values.var(ddof=1) / 5
        both = of_seeds + of_records
        df = both**2 / (of_seeds**2 / 4 + of_records**2 / 10)
        half = stats.t.ppf(0.975, df) * math.sqrt(both)
        assert row.verdict.test_loss_interval_records == pytest.approx(
            (values.mean() - half, values.mean() + half)
        )
    in_order = sorted(float(v.mean()) for v in losses.values())
    assert [row.test_loss for row in board.rows] == pytest.approx(in_order)
    assert [row.rank for row in board.rows] == list(range(1, len(losses) + 1))


def test_differences_to_the_baseline_and_what_they_prove(fake):
    """Difference, its interval, Holm's p over all rows but the baseline; who differs follows."""
    losses = by_label(fake)
    board = fake.board()
    rows = {row.label: row for row in board.rows}
    matrix = np.array(list(losses.values()))
    margins = np.array([rows[label].tuning.lr_margin for label in losses])
    base = list(losses).index("adamw")
    others = [i for i in range(len(losses)) if i != base]
    found = [pair(matrix, margins, i, base) for i in others]
    adjusted = holm([p for _, _, p in found])
    for i, (difference, half, p), its_p in zip(others, found, adjusted, strict=True):
        verdict = rows[list(losses)[i]].verdict
        assert verdict.difference == pytest.approx(difference)
        assert verdict.difference_interval == pytest.approx(
            (difference - half, difference + half), rel=1e-3
        )
        assert verdict.p_adjusted == pytest.approx(its_p, rel=0.02)
        assert verdict.differs == (its_p < 0.05)
        if list(losses)[i] == "adamw A/A":
            assert board.aa is not None
            assert board.aa.p == pytest.approx(p, rel=0.02)
            assert board.aa.difference == pytest.approx(difference)
    assert rows["adamw"].verdict.difference is None
    assert rows["lion"].verdict.differs
    assert not rows["adam"].verdict.differs
    assert board.noise_between_seeds == pytest.approx(math.sqrt(noise(matrix)[2]), rel=1e-3)


def test_rank_intervals_count_the_rows_that_are_surely_better_or_worse(fake):
    """Over all pairs with Holm."""
    losses = by_label(fake)
    rows = {row.label: row for row in fake.board().rows}
    names = list(losses)
    matrix = np.array(list(losses.values()))
    margins = np.array([rows[label].tuning.lr_margin for label in losses])
    pairs = list(combinations(range(len(names)), 2))
    found = [pair(matrix, margins, i, j) for i, j in pairs]
    low, high = dict.fromkeys(names, 1), dict.fromkeys(names, len(names))
    for (i, j), (difference, _, _), p in zip(
        pairs, found, holm([p for _, _, p in found]), strict=True
    ):
        if p < 0.05:
            better, worse = (i, j) if difference < 0 else (j, i)
            low[names[worse]] += 1
            high[names[better]] -= 1
    assert {n: rows[n].verdict.rank_interval for n in names} == {
        n: (low[n], high[n]) for n in names
    }


def test_what_the_searches_tell_is_that_of_their_trials(fake):
    """Sensitivity, tolerance and tries, from the search's validation and test losses."""
    searches = {
        row.entry.spec: [fake.results[t.id] for t in row.search]
        for row in fake.rows
        if not row.is_a_a
    }
    lrs = {row.entry.spec: row.lr for row in fake.rows if not row.is_a_a}
    gain = UNTOUCHED.eval_loss - min(r.record.eval_loss or 9 for r in searches["adamw"])
    for row in fake.board().rows:
        if row.a_a:
            continue
        results = searches[row.optimizer]
        done = [r.record.status == "done" for r in results]
        val = [r.record.eval_loss if ok else math.inf for r, ok in zip(results, done, strict=True)]
        near = [
            min(v, 4.2)
            for v, r in zip(val, results, strict=True)
            if abs(math.log10(r.trial.lr / lrs[row.optimizer])) < 1.003
        ]
        assert row.tuning.sensitivity == pytest.approx(np.mean(near) - min(near))
        coarse = sorted(
            (v, r.record.test_loss if ok else 4.25)
            for v, r, ok in list(zip(val, results, done, strict=True))[:5]
        )
        for k in (1, 3, 5):
            kept = [min(chosen)[1] for chosen in combinations(coarse, k)]
            assert row.tuning.with_tries[str(k)] == pytest.approx(np.mean(kept))
        points = sorted((math.log10(r.trial.lr), v) for r, v in zip(results, val, strict=True))
        x = np.array([p for p, v in points if v < math.inf])
        y = np.array([v for _, v in points if v < math.inf])
        fine = np.linspace(x[0], x[-1], 200_001)
        inside = np.interp(fine, x, y) <= y.min() + 0.05 * gain
        i = j = int(np.abs(fine - x[y.argmin()]).argmin())
        while i > 0 and inside[i - 1]:
            i -= 1
        while j < len(fine) - 1 and inside[j + 1]:
            j += 1
        assert row.tuning.lr_tolerance == pytest.approx(fine[j] - fine[i], abs=1e-3)
        at_declared = next(r for r in results if r.trial.lr == row.tuning.declared_lr)
        expected = at_declared.record.test_loss if at_declared.record.status == "done" else None
        assert row.tuning.loss_at_declared_lr == expected


def test_equivalent_steps_lie_on_the_baselines_curve(fake):
    """Between its measured lengths, linear in log steps; beyond them there is a bound."""
    (base,) = [row for row in fake.rows if row.budgets]
    points = sorted(
        (steps, np.mean([fake.results[t.id].record.test_loss for t in trials]))
        for steps, trials in [(150, base.seeds), *base.budgets.items()]
    )
    assert [steps for steps, _ in points] == [75, 150, 300]
    steps, losses = zip(*points, strict=True)
    bounds = set()
    for row in fake.board().rows:
        verdict = row.verdict
        expected = np.exp(np.interp(-row.test_loss, -np.array(losses), np.log(steps)))
        assert verdict.equivalent_baseline_steps == pytest.approx(expected)
        bounds.add(verdict.equivalent_baseline_steps_bound)
        if row.label == "lion":
            assert verdict.equivalent_baseline_steps_bound == "at least"
    assert None in bounds


def test_a_declared_board_of_several_seeds_is_judged_without_margins():
    """Its own loss ranks, paired over seeds; no search hides anything."""
    changes = {"optimizers": ["adamw", "adam", "lamb"], "seeds": [1, 2, 3, 4, 5]}
    fake = Fake(override(load_recipe("tiny-gpt2"), changes), lambda t: record(
        t, train_loss={"adamw": 2.0, "adam": 2.001, "lamb": 2.5}[t.spec]
        + 0.01 * math.sin(9 * t.seed + len(t.spec)), eval_loss=3.0))  # fmt: skip
    rows = {row.label: row for row in fake.board().rows}
    matrix = np.array(
        [[fake.results[t.id].record.train_loss for t in row.seeds] for row in fake.rows]
    )
    difference, half, p = pair(matrix, np.zeros(3), 2, 0)
    assert rows["lamb"].verdict.difference_interval == pytest.approx(
        (difference - half, difference + half)
    )
    assert rows["lamb"].verdict.differs == (2 * p < 0.05) == True  # noqa: E712
    assert rows["lamb"].verdict.rank_interval == (3, 3)
    assert rows["adamw"].verdict.rank_interval == rows["adam"].verdict.rank_interval == (1, 2)
