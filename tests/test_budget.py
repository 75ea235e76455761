"""A board cut to a budget of time: smaller, and as fair as before."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest
from command_line import run_here

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.budget import Cut, budget_seconds, cut, lengths
from optbench_llm.leaderboard.estimate import Costs, RowLeft, kinds, rows_left
from optbench_llm.leaderboard.measure import Measured
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.recipe import Recipe, load_recipe, override
from optbench_llm.leaderboard.trial import Inputs

TUNED = load_recipe("tiny-tuned")
MINUTES = (8, 10, 15, 20, 30, 45, 60, 90, 120, 600)


def nothing_stored(recipe: Recipe) -> list[RowLeft]:
    """All trials of every row."""
    plan = Plan(recipe, Inputs("model", "data"))
    return rows_left(plan, Agenda(plan, {}))


def costs_of(recipe: Recipe, step_s: float = 0.2, other_s: float = 3.0) -> Costs:
    """Every row costs the same, and a worker starts in 8 s."""
    cost = Measured(step_s, other_s)
    steps = recipe.training.max_steps or 100
    return Costs(dict.fromkeys(kinds(recipe.optimizers), cost), steps, 8.0)


def cut_to(minutes: float, recipe: Recipe = TUNED, left=nothing_stored) -> Cut:
    """The recipe within so many minutes of two workers."""
    return cut(recipe, costs_of(recipe), 2, minutes * 60, left)


def specs(recipe: Recipe) -> list[str]:
    """The rows, in their order."""
    return [entry.spec for entry in recipe.optimizers]


def test_more_time_never_gives_a_smaller_board():
    """Rows of a smaller budget are among those of a larger one, and runs are no shorter."""
    boards = [cut_to(minutes).recipe for minutes in MINUTES]
    for less, more in pairwise(boards):
        assert set(specs(less)) <= set(specs(more))
    lengths_of_runs = [board.training.max_steps or 0 for board in boards]
    assert lengths_of_runs == sorted(lengths_of_runs)
    assert lengths_of_runs[0] < 150
    assert specs(boards[0]) == ["adamw", "rmsprop"]
    assert boards[-1] == TUNED


@pytest.mark.parametrize("minutes", MINUTES)
def test_what_is_kept_fits_and_is_searched_as_all_are(minutes):
    """Five seeds, eight lrs and the baseline's twin stay, whatever the time."""
    fits = cut_to(minutes)
    kept = fits.recipe
    assert kept.all_seeds == TUNED.all_seeds
    assert kept.search == TUNED.search
    assert kept.baseline_budgets == TUNED.baseline_budgets
    rows = nothing_stored(kept)
    costs = dataclasses.replace(costs_of(kept), steps=kept.training.max_steps)
    assert costs.wall_s(rows, 2) == fits.wall_s <= minutes * 60
    own = [sum(steps is None for steps in row.steps) for row in rows]
    assert own == [8 + 5] * (len(kept.optimizers) + 1)


def test_rows_go_from_the_end_and_before_any_run_is_shortened():
    """Down to the baseline and one other, wherever the recipe lists the baseline."""
    half_an_hour = cut_to(30)
    count = len(half_an_hour.recipe.optimizers)
    assert specs(half_an_hour.recipe) == specs(TUNED)[:count]
    assert 2 < count < 24
    assert half_an_hour.recipe.training == TUNED.training
    rows = [entry.model_dump() for entry in TUNED.optimizers]
    last = override(TUNED, {"optimizers": [*rows[1:], rows[0]]})
    assert specs(cut_to(8, last).recipe) == ["rmsprop", "adamw"]


def test_shorter_runs_have_a_warm_up_in_proportion_and_an_end():
    """Never under twenty steps nor under twice the warm-up that the recipe asks for."""
    shapes = [(r.training.max_steps, r.training.warmup_steps) for r in lengths(TUNED)]
    assert shapes == [(150, 15), (120, 12), (100, 10), (75, 8), (60, 6), (50, 5), (40, 4), (30, 3)]
    long = override(TUNED, {"training.max_steps": 9000, "training.warmup_steps": 0})
    assert [r.training.max_steps for r in lengths(long)][-1] == 20
    short = override(TUNED, {"training.max_steps": 25})
    assert [r.training.max_steps for r in lengths(short)] == [25]


def test_complete_rows_stay_and_cost_nothing():
    """What is stored is not dropped, wherever it stands."""

    def stored(recipe: Recipe) -> list[RowLeft]:
        rows = nothing_stored(recipe)
        done = {"sgd", "lamb"} if recipe.training.max_steps == 150 else ()
        return [
            dataclasses.replace(row, steps=()) if row.entry.spec in done else row for row in rows
        ]

    with_stored, without = (
        specs(cut_to(30, left=left).recipe) for left in (stored, nothing_stored)
    )
    assert with_stored == [*without, "lamb", "sgd"]


def test_a_store_for_other_lengths_is_left_alone():
    """A recipe that ``left`` does not know is no candidate."""

    def only_75(recipe: Recipe) -> list[RowLeft] | None:
        return nothing_stored(recipe) if recipe.training.max_steps == 75 else None

    assert cut_to(600, left=only_75).recipe.training.max_steps == 75


def test_what_was_cut_is_told():
    """Rows by name and number, and the length of runs."""
    assert cut_to(600).words == ()
    left_out, shorter = cut_to(8).words
    assert left_out.startswith("left out for the budget: lion, adam, ")
    assert left_out.endswith("sgd, lion-8bit (22 of 24 rows)")
    assert re.fullmatch("runs of [0-9]+ steps instead of 150", shorter)


def test_too_small_a_budget_names_the_least_that_would_do():
    """And with that there is a board."""
    message = r"^--budget 1m: the smallest fair board, 3 rows of 30 steps, takes about 4 min here"
    with pytest.raises(ValueError, match=message) as refused:
        cut_to(1)
    named = str(refused.value).rsplit("--budget ", 1)[1].split()[0]
    assert specs(cut_to(budget_seconds(named) / 60).recipe) == ["adamw", "rmsprop"]


def test_other_tracks_lose_rows_and_steps_and_no_seeds():
    """The first two rows stay where no baseline is listed; epochs are not shortened."""
    declared = override(TUNED, {"track": "declared", "optimizers": ["sgd", "lion", "adan"]})
    fits = cut_to(4, declared)
    assert specs(fits.recipe) == ["sgd", "lion"]
    assert len(fits.recipe.all_seeds) == 5
    epochs = {"training.max_steps": None, "training.num_train_epochs": 1.0}
    assert specs(cut_to(3, override(declared, epochs)).recipe) == ["sgd", "lion"]
    with pytest.raises(ValueError, match=r"the smallest fair board, 2 rows, takes about"):
        cut_to(0.5, override(declared, epochs))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_budgets_are_numbers_with_a_unit(text, seconds):
    """Seconds, minutes or hours."""
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "30 d", "0m", "-5m", "m", "1h30m", "nanh", "1e400h"])
def test_other_budgets_are_refused_with_what_is_expected(text):
    """No unit, nothing, or less than nothing."""
    with pytest.raises(ValueError, match=r"--budget .*: expected a number above 0 with its unit"):
        budget_seconds(text)


def test_the_command_refuses_a_budget_without_unit_before_it_loads_anything():
    """One line and exit code 2."""
    asked = run_here("leaderboard", "tiny-tuned", "--budget", "30")
    assert asked.returncode == 2
    assert asked.stderr == (
        "error: --budget 30: expected a number above 0 with its unit: 90s, 30m or 2h\n"
    )
