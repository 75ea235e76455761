"""The plan of a board is a pure function of its results: no order, crash or worker changes it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from fake_board import HERE, UNTOUCHED, failed, record, result, tuned_recipe

from optbench_llm.leaderboard import plan as plan_module
from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.make_rows import build_board
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.recipe import Recipe, override
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import Inputs, TrialSpec
from optbench_llm.run_record import RunRecord

ROWS = ("adamw", "lion", "sgd", "prodigy", "rmsprop")
#: Where each row's loss is lowest, in decades of lr; AdamW's is beyond its first five lrs.
BEST = {"adamw": -1.3, "lion": -3.9, "sgd": -0.6, "prodigy": 0.1, "rmsprop": -3.2}
INPUTS = Inputs("m", "d")
Results = dict[str, TrialResult]
Outcome = Callable[[TrialSpec], RunRecord]


def outcome(trial: TrialSpec) -> RunRecord:
    """A parabola over the lr with noise of each seed; a decade above the best it diverges."""
    off = math.log10(trial.lr) - BEST[trial.spec]
    if off > 1.2:
        return failed(trial)
    noise = random.Random(f"{trial.spec} {trial.seed} {trial.lr}").gauss(0, 0.002)
    shared = random.Random(f"{trial.seed}").gauss(0, 0.01)
    loss = 2.9 + 0.2 * off**2 + noise + shared
    return record(
        trial, train_loss=loss + 0.3, eval_loss=loss, test_loss=loss + 0.1, engine="compiled",
        batches_hash=f"{trial.seed} {trial.max_steps}",
    )  # fmt: skip


def plan_of(*rows: Any, **changes: Any) -> Plan:
    return Plan(tuned_recipe(*(rows or ROWS), **changes), INPUTS)


def work(
    plan: Plan, results: Results, outcome: Outcome, workers: int, chance: random.Random,
    stop_after: int | None = None,
) -> Agenda:  # fmt: skip
    """Run a plan's trials, any of those that are running ending next; a stop loses the running."""
    agenda = Agenda(plan, results)
    running: dict[int, TrialSpec] = {}
    ended = 0
    while ended != stop_after:
        for worker in range(workers):
            if worker not in running and (trial := agenda.take(worker)) is not None:
                running[worker] = trial
        if not running:
            break
        worker = chance.choice(list(running))
        trial = running.pop(worker)
        results[trial.id] = result(trial, outcome(trial))
        agenda.finished(trial)
        ended += 1
    return agenda


def board(plan: Plan, results: Results) -> str:
    """All that a table of these results says."""
    rows = [plan.row(entry, results, is_a_a=is_a_a) for entry, is_a_a in plan.entries()]
    return build_board(plan.recipe, rows, results, HERE, UNTOUCHED).to_json()


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Results, str]:
    """One worker from the first trial to the last."""
    plan, results = plan_of(), {}
    work(plan, results, outcome, 1, random.Random(0))
    return results, board(plan, results)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_order_workers_and_crashes_change_no_trial_and_no_table(undisturbed, workers, seed):
    """Killed at any moments, gone on with, whoever finishes first: the same to the last byte."""
    chance = random.Random(seed)
    plan, results = plan_of(), {}
    while Agenda(plan, results).missing():
        work(plan, results, outcome, workers, chance, stop_after=chance.randint(1, 30))
    expected, table = undisturbed
    assert results.keys() == expected.keys()
    assert board(plan, results) == table


def test_every_row_spends_the_same_number_of_trials(undisturbed):
    """Eight for its lr, five seeds; the baseline's other lengths are no part of any search."""
    results, _ = undisturbed
    plan = plan_of()
    for entry, is_a_a in plan.entries():
        row = plan.row(entry, results, is_a_a=is_a_a)
        assert (len(row.search), len(row.seeds)) == (8, 5), entry
        assert len({trial.lr for trial in row.search}) == 8
        assert {trial.seed for trial in row.search} == {0}
        assert {trial.seed for trial in row.seeds} == {1, 2, 3, 4, 5}
        assert {trial.lr for trial in row.seeds} == {row.lr}
        longer = {steps: len(trials) for steps, trials in row.budgets.items()}
        assert longer == ({75: 5, 300: 5} if entry.spec == "adamw" and not is_a_a else {})


def test_the_lr_is_chosen_by_validation_loss_alone():
    """Neither the test loss nor the train loss of the search decides anything."""

    def misleading(trial: TrialSpec) -> RunRecord:
        honest = outcome(trial)
        if honest.status != "done" or honest.eval_loss is None:
            return honest
        values = {"eval_loss": honest.eval_loss, "batches_hash": honest.batches_hash}
        return record(trial, train_loss=1 / trial.lr, test_loss=trial.lr, **values)

    found = []
    for told in (outcome, misleading):
        plan, results = plan_of("adamw", "lion"), {}
        work(plan, results, told, 2, random.Random(0))
        found.append([plan.row(entry, results).lr for entry in plan.recipe.optimizers])
    assert found[0] == found[1]
    assert None not in found[0]


def test_the_baseline_stands_twice_from_another_lr(undisturbed):
    """Right after itself, a quarter of a decade off; with its budgets' runs once only."""
    entries = plan_of().entries()
    assert [(entry.spec, is_a_a) for entry, is_a_a in entries[:2]] == [
        ("adamw", False), ("adamw", True)
    ]  # fmt: skip
    assert entries[1][0].lr == pytest.approx(1e-3 * 10**0.25, rel=2e-3)
    assert plan_of("lion", "sgd").entries() == [
        (entry, False) for entry in plan_of("lion", "sgd").recipe.optimizers
    ]


def test_planned_counts_are_those_of_the_end(undisturbed):
    """Before the first trial as after the last: what a progress bar shows is never passed."""
    results, _ = undisturbed
    plan = plan_of()
    first, last = Agenda(plan, {}), Agenda(plan, results)
    assert (first.ended(), last.planned()) == (0, last.ended())
    # The twins' trials may coincide.
    assert last.ended() <= first.planned() == 6 * 13 + 10
    assert last.missing() == []


def test_a_trial_is_handed_out_once(undisturbed):
    """To no second worker while it runs."""
    agenda = Agenda(plan_of(), {})
    taken = [agenda.take(worker) for worker in range(40)]
    ids = [trial.id for trial in taken if trial]
    # Five of each of six rows can run before any result; the twins share none of theirs.
    assert len(ids) == len(set(ids)) == 30
    assert agenda.waiting() == 0


def test_two_workers_take_two_rows_and_keep_them():
    """Not the first row's next trial for both; nor back to an earlier row once it has more."""
    plan, results = plan_of("lion", "sgd", "rmsprop"), {}
    agenda = Agenda(plan, results)
    taken = {worker: agenda.take(worker) for worker in (1, 2)}
    assert [trial and trial.spec for trial in taken.values()] == ["lion", "sgd"]
    later = [agenda.take(worker) for worker in (1, 2, 1, 2)]
    assert [trial and trial.spec for trial in later] == ["lion", "sgd"] * 2


def test_a_worker_does_not_leave_its_row_for_an_earlier_one_that_is_free_again():
    """The first row waited for a result; its worker has gone on elsewhere and stays there."""
    plan, results = plan_of("lion", "sgd", "rmsprop"), {}
    agenda = Agenda(plan, results)
    lion = [agenda.take(1) for _ in range(5)]
    moved = agenda.take(1)
    assert moved is not None
    assert moved.spec == "sgd"
    for trial in lion:
        assert trial is not None
        results[trial.id] = result(trial, outcome(trial))
        agenda.finished(trial)
    following = agenda.take(1)
    assert following is not None
    assert following.spec == "sgd"


def test_an_interrupted_trial_is_left_to_run():
    """Whether or not an earlier call had tried it."""
    plan, results = plan_of("lion"), {}
    for _ in range(2):
        agenda = Agenda(plan, results)
        trial = agenda.take(1)
        assert trial is not None
        results[trial.id] = result(trial, failed(trial, "interrupted", "Ctrl-C"))
        agenda.finished(trial)
        assert (agenda.ended(), agenda.is_to_run(trial)) == (0, True)


def test_a_row_that_failed_everywhere_is_planned_no_further():
    """Its search is over after five: the count falls to what has ended."""
    plan, results = plan_of("lion"), {}
    agenda = work(plan, results, lambda t: failed(t, "error", "x"), 1, random.Random(0))
    assert (agenda.planned(), agenda.ended()) == (5, 5)


@pytest.mark.parametrize("status", ["error", "oom", "timeout"])
def test_a_failure_is_infinitely_bad_now_and_tried_again_next_time(status):
    """It holds no search up; the next call runs it once more, and goes by what it then gives."""
    plan, results = plan_of("adamw", "lion"), {}

    def failing(trial: TrialSpec) -> RunRecord:
        unlucky = trial.spec == "lion" and trial.lr == 1e-4 and trial.seed == 0
        return failed(trial, status, "x") if unlucky else outcome(trial)

    agenda = work(plan, results, failing, 2, random.Random(0))
    assert agenda.missing() == []
    lion = plan.recipe.optimizers[1]
    assert len(plan.row(lion, results).seeds) == 5
    again = Agenda(plan, results)
    assert again.tried_again() == [f"lion ({status})"]
    work(plan, results, outcome, 2, random.Random(0))
    fresh: Results = {}
    work(plan, fresh, outcome, 1, random.Random(0))
    assert board(plan, results) == board(plan, fresh)


def coarse(plan: Plan, status: str) -> tuple[Results, TrialSpec]:
    """A store killed after a row's first five trials, of which the middle one ended so."""
    results: Results = {}
    first = plan.row(plan.recipe.optimizers[0], results).search
    for trial in first:
        results[trial.id] = result(trial, outcome(trial))
    results[first[2].id] = result(first[2], failed(first[2], status, "x"))
    return results, first[2]


@pytest.mark.parametrize("status", ["error", "oom", "timeout", "interrupted"])
def test_a_search_waits_for_what_is_run_once_more(status):
    """It does not go on by a failure that may not come again."""
    plan = plan_of("lion")
    results, failure = coarse(plan, status)
    assert Agenda(plan, results).missing() == [failure]


@pytest.mark.parametrize("status", ["error", "interrupted"])
def test_a_table_of_a_store_alone_knows_failures_from_interruptions(status):
    """Where nothing is to run again a failure counts, and a stop in the middle never does."""
    plan = plan_of("lion")
    results, _ = coarse(plan, status)
    row = plan.row(plan.recipe.optimizers[0], results)
    assert (len(row.search) > 5) is (status == "error")


def test_what_was_interrupted_decides_nothing():
    """It is run again before its row goes on, also within a search."""
    plan, results = plan_of("adamw", "lion"), {}
    agenda = Agenda(plan, results)
    trial = agenda.take(1)
    assert trial is not None
    results[trial.id] = result(trial, failed(trial, "interrupted", "Ctrl-C after step 3"))
    agenda.finished(trial)
    work(plan, results, outcome, 1, random.Random(0))
    assert results[trial.id].record.status == "done"


def test_errors_at_all_first_lrs_end_a_search():
    """No lr helps an optimizer that cannot run at all; numbers that diverge are searched below."""
    plan, results = plan_of("adamw", "lion"), {}
    work(
        plan, results, lambda t: failed(t, "error", "x") if t.spec == "lion" else outcome(t),
        1, random.Random(0),
    )  # fmt: skip
    lion = plan.recipe.optimizers[1]
    row = plan.row(lion, results)
    assert (len(row.search), row.lr, row.seeds) == (5, None, ())
    assert Agenda(plan, {k: v for k, v in results.items() if v.final}).waiting() == 5

    diverging: Results = {}
    work(plan, diverging, lambda t: failed(t), 1, random.Random(0))
    row = plan.row(lion, diverging)
    assert (len(row.search), row.lr) == (8, None)
    assert min(trial.lr for trial in row.search) == pytest.approx(1e-4 * 10**-2.5, rel=0.01)


def grown(before: Recipe, after: Recipe, told: Outcome = outcome) -> tuple[Results, Results, Plan]:
    """Results of a first recipe, and of a second over the same store."""
    first, plan = Plan(before, INPUTS), Plan(after, INPUTS)
    results: Results = {}
    work(first, results, told, 2, random.Random(1))
    earlier = dict(results)
    work(plan, results, told, 2, random.Random(2))
    return earlier, results, plan


def alone(plan: Plan, told: Outcome = outcome) -> str:
    results: Results = {}
    work(plan, results, told, 1, random.Random(0))
    return board(plan, results)


def test_a_store_grows_in_seeds_and_rows():
    """From 3 seeds to 5 and from two rows to five: only the difference runs."""
    few = tuned_recipe("adamw", "lion", seeds=[1, 2, 3])
    earlier, results, plan = grown(few, plan_of().recipe)
    assert earlier.items() <= results.items()
    assert len(results) - len(earlier) == 3 * 13 + 2 * 3 + 2 * 2
    assert board(plan, results) == alone(plan)


def test_tracks_share_a_store_and_keep_their_tables():
    """The declared track's trials and the tuned one's stand side by side."""
    tuned = plan_of().recipe
    declared = override(tuned, {"track": "declared"})
    _, results, plan = grown(declared, tuned)
    assert board(plan, results) == alone(plan)
    assert board(Plan(declared, INPUTS), results) == alone(Plan(declared, INPUTS))


def test_another_lr_scale_runs_other_trials_and_ranks_no_old_ones():
    """The lr belongs to a trial, so that nothing of the first scale is taken for the second."""
    whole = override(plan_of("adamw", "lion").recipe, {"track": "declared"})
    _, results, plan = grown(whole, override(whole, {"lr_scale": 0.1}))
    assert len(results) == 20
    assert board(plan, results) == alone(plan)


def test_another_version_of_a_rule_runs_again(monkeypatch):
    """Results of other numbers stay in the store and out of the table."""
    plan, results = plan_of("adamw", "lion"), {}
    work(plan, results, outcome, 1, random.Random(0))
    made = plan_module.trial_of

    def newer(*args: Any, **kwargs: Any) -> TrialSpec:
        trial = made(*args, **kwargs)
        values = trial.to_dict()
        if trial.spec == "lion":
            values["rule_version"] = "lion 2"
        return TrialSpec(**values)

    monkeypatch.setattr(plan_module, "trial_of", newer)
    assert {trial.spec for trial in Agenda(plan, results).missing()} == {"lion"}
    rows = [row for row in Agenda(plan, results).rows if row.entry.spec == "lion"]
    assert rows[0].lr is None


def test_rows_of_one_spec_with_other_arguments_are_searched_apart():
    """Neither takes the other's losses for its own."""
    rows = ("adamw", {"spec": "adamw", "args": {"betas": [0.8, 0.9]}})
    plan, results = plan_of(*rows), {}

    def told(trial: TrialSpec) -> RunRecord:
        return outcome(trial) if not trial.hyperparameters else record(
            trial, train_loss=1.0, eval_loss=abs(math.log10(trial.lr) + 4), test_loss=1.0
        )  # fmt: skip

    work(plan, results, told, 1, random.Random(0))
    plain, own = (plan.row(entry, results) for entry in plan.recipe.optimizers)
    assert plain.lr != own.lr
    assert own.lr == pytest.approx(1e-4, rel=0.5)
    assert own.budgets == {}


def test_a_rows_engine_is_that_of_its_first_trials():
    """A store that grows does not change from eager to compiled code in the middle of a row."""
    plan, results = plan_of("adamw", "lion"), {}
    first = Agenda(plan, results).take(1)
    assert first is not None
    assert (first.engine, first.planned_steps) == ("auto", 150 * 13)
    trial = Agenda(plan, results).take(1)
    assert trial is not None
    told = record(trial, train_loss=3.0, eval_loss=3.0, test_loss=3.0, engine="eager")
    results[trial.id] = result(trial, told)
    plain = Agenda(plan, results).rows[0].search
    assert {t.engine for t in plain} == {"eager"}
    assert {t.engine for t in Agenda(plan, results).rows[-1].search} == {"auto"}


def test_a_row_of_a_library_is_asked_for_no_engine():
    """Its record says foreign, which is nothing that its next trials could be run by."""
    plan, results = plan_of("adamw", "lion-8bit"), {}
    row = plan.row(plan.recipe.optimizers[1], results)
    told = record(row.search[0], train_loss=3.0, eval_loss=3.0, test_loss=3.0, engine="foreign")
    results[row.search[0].id] = result(row.search[0], told)
    again = plan.row(plan.recipe.optimizers[1], results)
    assert {trial.engine for trial in again.search} == {"auto"}


def test_a_nan_in_one_seed_of_five_keeps_the_others():
    """The row says four of five, is ranked last, and nothing is claimed of it."""

    def told(trial: TrialSpec) -> RunRecord:
        return failed(trial) if (trial.spec, trial.seed) == ("lion", 3) else outcome(trial)

    plan, results = plan_of("adamw", "lion", "sgd"), {}
    work(plan, results, told, 1, random.Random(0))
    rows = [plan.row(entry, results, is_a_a=twin) for entry, twin in plan.entries()]
    found = build_board(plan.recipe, rows, results, HERE, UNTOUCHED).to_dict()["rows"]
    last = found[-1]
    assert (last["optimizer"], last["status"], last["finished"]) == ("lion", "diverged", [4, 5])
    assert (last["differs"], last["rank_interval"]) == (None, None)
    assert [seed["seed"] for seed in last["seeds"]] == [1, 2, 3, 4, 5]
