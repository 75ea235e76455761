"""What a dry run tells of the baseline: its noise, its lr curve and its gain."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_leaderboard_estimate import TUNED, result

from optbench_llm.leaderboard import search
from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.baseline_page import baseline_lines
from optbench_llm.leaderboard.identity import identity
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.trial import Inputs

INPUTS = Inputs("model", "data")


def lines_of(recipe: Recipe, results: list[TrialResult], untouched: Untouched | None) -> list[str]:
    """The lines of a store with these results."""
    plan = Plan(recipe, INPUTS)
    by_id = {one.trial.id: one for one in results}
    store = Store(Path("none"), identity(recipe, INPUTS), by_id, untouched=untouched)
    return baseline_lines(plan, Agenda(plan, by_id), store)


@pytest.fixture(autouse=True)
def nothing_ships(monkeypatch, tmp_path):
    """No board but that of the store."""
    monkeypatch.setattr("optbench_llm.tuned_boards.PACKAGE", tmp_path / "package" / "optbench_llm")


def test_a_search_that_has_begun_shows_its_curve():
    """Losses by rising lr, without those that diverged; nothing before any."""
    entry = TUNED.optimizers[1]
    results = [
        result(TUNED, entry, 0.00316, eval_loss=3.2),
        result(TUNED, entry, 0.001, eval_loss=2.9),
        result(TUNED, entry, 0.01, status="diverged"),
    ]
    told = lines_of(TUNED, results, None)
    assert told == [
        "adamw's lr curve (lr: validation loss) 0.001: 2.900, 0.00316: 3.200; of this store"
    ]
    assert lines_of(TUNED, [], None) == []


def test_a_finished_baseline_shows_noise_curve_and_gain():
    """In three lines."""
    entry, losses, results = TUNED.optimizers[1], {}, []
    while new := search.next_lrs(losses, 0.001):
        losses |= dict.fromkeys(new, 3.0)
        losses |= {lr: 2.5 for lr in new if lr == 0.001}
        results += [result(TUNED, entry, lr, eval_loss=losses[lr]) for lr in new]
    found = search.found(losses, 0.001)
    assert found is not None
    for seed in TUNED.all_seeds:
        results.append(result(TUNED, entry, found.lr, seed, test_loss=2.0 + seed / 100))
    noise, curve, gain = lines_of(TUNED, results, Untouched(4.2, 4.1))
    spread = "adamw's test loss 2.0300, noise between seeds 0.0158 (standard deviation of 5)"
    assert noise == f"{spread}; of this store"
    assert curve.count(":") == 1 + 8
    assert gain == "adamw's gain over the untouched model 2.0700, from 4.1000"
