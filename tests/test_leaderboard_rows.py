"""From trials to rows: status, means, medians, ranks, labels, and who takes part in claims."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import Any

import pytest
from fake_board import HERE, UNTOUCHED, Fake, failed, record, result, tuned_recipe

from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.store import Untouched
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord

TINY = load_recipe("tiny-gpt2")


def board(*entries: Any, outcomes: list[dict[str, Any]], **changes: Any) -> Board:
    """The default recipe with these rows and what each trial gave, in order."""
    recipe = override(TINY, {"optimizers": list(entries), **changes})
    told = iter(outcomes)
    return Fake(recipe, lambda trial: record(trial, **next(told))).board()


def done(train_loss: float, eval_loss: float = 1.0, **values: Any) -> dict[str, Any]:
    return {"train_loss": train_loss, "eval_loss": eval_loss, **values}


OOM = {"status": "oom", "reason": "out of memory"}


def flat(trial: TrialSpec) -> RunRecord:
    """A tuned trial whose loss hardly depends on anything."""
    noise = 0.001 * ((trial.seed * 7 + len(trial.spec) * 3) % 5)
    return record(
        trial, train_loss=3.0, eval_loss=2.9 + noise, test_loss=2.8 + noise,
        batches_hash=f"{trial.seed}",
    )  # fmt: skip


def test_equal_losses_share_a_rank_and_failures_the_last():
    """Nobody wins by the order of a list, and a failure never stands above a result."""
    found = board("sgd", "adam", "lamb", "lars", outcomes=[OOM, done(2.0), done(1.0), done(2.0)])
    ranks = [(row.optimizer, row.rank) for row in found.rows]
    assert ranks == [("lamb", 1), ("adam", 2), ("lars", 2), ("sgd", 4)]


def test_the_recipe_says_what_is_ranked_by():
    """Ranking by eval loss puts the better eval loss first."""
    found = board("adam", "sgd", outcomes=[done(1.0, 3.0), done(2.0, 2.0)], rank_by="eval_loss")
    assert [row.optimizer for row in found.rows] == ["sgd", "adam"]


def test_a_row_without_the_loss_to_rank_by_comes_after_those_with_one():
    """A store from before a change of rank_by is ranked, not refused with a traceback."""
    unknown = {"train_loss": 0.5, "eval_loss": None}
    outcomes = [unknown, done(1.0), unknown]
    found = board("adam", "sgd", "lamb", outcomes=outcomes, rank_by="eval_loss")
    ranks = [(row.optimizer, row.rank) for row in found.rows]
    assert ranks == [("sgd", 1), ("adam", 2), ("lamb", 2)]


@pytest.mark.parametrize(
    ("entries", "labels"),
    [
        (["adam", "sgd"], ["adam", "sgd"]),
        (["adam", {"spec": "adam", "lr": 0.5}], ["adam lr=0.001", "adam lr=0.5"]),
        (["adam", {"spec": "adam", "args": {"eps": 0.1}}], ["adam", "adam eps=0.1"]),
        (["sgdp", {"spec": "sgdp", "schedule": "constant"}], ["sgdp cosine", "sgdp constant"]),
    ],
)
def test_rows_of_one_optimizer_are_told_apart(entries, labels):
    """The label says what differs, and no more."""
    outcomes = [done(float(i)) for i in range(len(labels))]
    assert [row.label for row in board(*entries, outcomes=outcomes).rows] == labels


def test_published_figures_belong_to_plain_names_alone():
    """Other storages and other implementations were not in the published table."""
    entries = ("lion", "lion@int8", {"spec": "torch:SGD", "lr": 0.1})
    figures = {
        row.optimizer: row.published_loss for row in board(*entries, outcomes=[done(1.0)] * 3).rows
    }
    assert figures == {"lion": 2.4041, "lion@int8": None, "torch:SGD": None}


def test_several_seeds_are_one_row_of_means_and_medians():
    """Losses are means over seeds, costs medians; each seed is listed with its own."""
    outcomes = [
        done(loss, loss + 1, tokens_per_s=speed, train_wall_s=speed / 10, batches_hash="h")
        for loss, speed in ((1.0, 10.0), (2.0, 90.0), (4.0, 20.0))
    ]
    (row,) = board("adam", outcomes=outcomes, seeds=[7, 8, 9]).rows
    assert (row.train_loss, row.eval_loss) == pytest.approx((7 / 3, 10 / 3))
    assert (row.costs.tokens_per_s, row.costs.train_wall_s) == (20.0, 2.0)
    assert [(run.seed, run.train_loss) for run in row.seeds] == [(7, 1.0), (8, 2.0), (9, 4.0)]
    assert (row.finished, row.seed, row.trial) == ((3, 3), None, None)
    assert json.loads(board("adam", outcomes=[done(1.0)]).to_json())["rows"][0]["seed"] == 42


def test_costs_of_a_tuned_row_are_those_of_its_search_and_its_seeds():
    """Median over both; the baseline's runs of other lengths take other times."""
    speeds: list[float] = []

    def outcome(trial: TrialSpec) -> RunRecord:
        if trial.max_steps is not None:
            return replace(flat(trial), tokens_per_s=1e6)
        speeds.append(10.0 * (1 + len(speeds)) ** 2)
        return replace(flat(trial), tokens_per_s=speeds[-1])

    fake = Fake(tuned_recipe("adamw"), outcome)
    (row,) = [row for row in fake.board().rows if "A/A" not in row.label]
    planned = fake.rows[0]
    own = speeds[: len(planned.search) + len(planned.seeds)]
    assert len(planned.budgets) > 0
    assert row.costs.tokens_per_s == statistics.median(own)
    assert row.costs.tokens_per_s != statistics.median(own[len(planned.search) :])


def test_another_length_counts_when_all_its_seeds_have_run_it():
    """A mean over other seeds than the rows' would give another number of equivalent steps."""
    fake = Fake(tuned_recipe("adamw"), flat)
    shorter, longer = fake.rows[0].budgets
    assert fake.board().baseline_loss_at_steps.keys() == {shorter, longer}
    lost = fake.rows[0].budgets[longer][0].id
    fake.forget(lambda trial: trial.id != lost)
    assert fake.board().baseline_loss_at_steps.keys() == {shorter}


def test_a_loss_that_one_seed_lacks_has_no_mean():
    """That of the others would be a mean over other seeds than the rows beside it have."""
    outcomes = [done(1.0, None), done(2.0, 2.0)]
    (row,) = board("adam", outcomes=outcomes, seeds=[1, 2]).rows
    assert (row.status, row.train_loss, row.eval_loss) == ("done", 1.5, None)


def test_a_failed_seed_fails_its_row_but_does_not_hide_the_others():
    """The row says so, shows the mean of the rest, ranks last, and nothing is claimed of it."""

    def outcome(trial: TrialSpec) -> RunRecord:
        if trial.spec == "lion" and trial.seed in (2, 4):
            status = "oom" if trial.seed == 2 else "diverged"
            return failed(trial, status, f"why {trial.seed}")
        if trial.spec == "lion" and trial.seed:
            return replace(flat(trial), test_loss=1.0 + trial.seed)
        return flat(trial)

    found = Fake(tuned_recipe("lion", "adamw", "adam"), outcome).board()
    row = found.rows[-1]
    assert (row.label, row.status, row.rank, row.finished) == ("lion", "diverged", 4, (3, 5))
    assert row.reason == "seed 4 of 5: why 4"
    assert row.test_loss == pytest.approx((2 + 4 + 6) / 3)
    assert [run.status for run in row.seeds] == ["done", "oom", "done", "diverged", "done"]
    assert row.verdict.differs is row.verdict.rank_interval is row.verdict.difference is None
    assert row.verdict.test_loss_interval is None
    assert {r.verdict.rank_interval for r in found.rows[:3]} == {(1, 3)}


def test_a_row_whose_lrs_all_diverge_is_a_row():
    """No lr, no seed, and the whole search to look at."""

    def outcome(trial: TrialSpec) -> RunRecord:
        return failed(trial) if trial.spec == "sgd" else flat(trial)

    found = Fake(tuned_recipe("sgd", "adamw"), outcome).board()
    row = found.rows[-1]
    assert (row.label, row.status, row.finished, row.lr) == ("sgd", "diverged", (0, 5), None)
    assert len(row.tuning.search) == 8
    lrs = [run.lr for run in row.tuning.search]
    assert lrs == sorted(lrs)
    assert {run.status for run in row.tuning.search} == {"diverged"}
    assert "at every lr of the search" in (row.reason or "")
    assert "loss is nan at step 3" in (row.reason or "")


def test_a_search_that_ends_on_errors_takes_the_worst_of_them():
    """Five errors end a search: its row is no row that waits."""

    def outcome(trial: TrialSpec) -> RunRecord:
        return failed(trial, "timeout", "too long") if trial.spec == "sgd" else flat(trial)

    row = Fake(tuned_recipe("sgd", "adamw"), outcome).board().rows[-1]
    assert (row.status, row.finished, len(row.tuning.search)) == ("timeout", (0, 5), 5)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda t: t.seed == 0 and t.lr < 5e-3, "4 of 8 search trials, 0 of 5 seeds"),
        (lambda t: t.seed == 0, "8 of 8 search trials, 0 of 5 seeds"),
        (lambda t: t.seed in (0, 1, 4), "8 of 8 search trials, 2 of 5 seeds"),
    ],
)
def test_a_row_that_is_not_finished_says_how_far_it_is(keep, reason):
    """It is interrupted, whatever it waits for."""
    fake = Fake(tuned_recipe("adamw"), flat).forget(lambda t: t.max_steps is None and keep(t))
    row = next(row for row in fake.board().rows if not row.a_a)
    assert (row.status, row.reason) == ("interrupted", reason)
    assert row.verdict.rank_interval is None


def test_rows_that_have_not_begun_are_named_and_no_rows():
    """A board in the making shows what there is."""
    fake = Fake(tuned_recipe("adamw", "sgd", "lion"), flat)
    found = fake.forget(lambda trial: trial.spec == "adamw").board()
    assert {row.label for row in found.rows} == {"adamw", "adamw A/A"}
    assert found.not_begun == ("sgd", "lion")


@pytest.mark.parametrize("entries", [["adamw"], ["sgd"], ["adamw", "sgd"], ["sgd", "lion"]])
def test_small_boards_work(entries):
    """One row, the baseline alone, no baseline: every form works and says what is missing."""
    found = Fake(tuned_recipe(*entries), flat).board()
    has_baseline = "adamw" in entries
    assert (found.baseline == "adamw") == has_baseline
    assert (found.aa is not None) == has_baseline
    notes = "\n".join(found.notes())
    assert ("add it to the recipe's optimizers" in notes) == (not has_baseline)
    for row in found.rows:
        differs = row.verdict.differs
        assert differs is (False if has_baseline and row.label != "adamw" else None)
        assert row.verdict.rank_interval == (1, len(found.rows))
    assert json.loads(found.to_json())["rows"]
    assert found.to_csv().count("\n") == 1 + len(found.rows)


def test_a_board_of_failures_alone_works():
    """All rows share the first rank, and there is nothing to compare."""
    found = Fake(tuned_recipe("adamw", "sgd"), failed).board()
    assert {(row.status, row.rank) for row in found.rows} == {("diverged", 1)}
    values = json.loads(found.to_json())
    assert values["aa"] is values["noise_between_seeds"] is None
    assert "adamw, the baseline, is not done" in found.to_markdown()


def test_the_second_baseline_is_told_from_the_first_only_if_it_differs():
    """A/A: a flag and a label, and at the top of the board when it fails."""

    trusted = Fake(tuned_recipe("adamw", "adam"), flat).board()
    assert trusted.aa is not None
    assert not trusted.aa.differs
    assert "are not told apart" in trusted.to_markdown()
    assert "DO NOT TRUST" not in trusted.to_markdown()
    (twin,) = [row for row in trusted.rows if row.a_a]
    assert (twin.label, twin.optimizer) == ("adamw A/A", "adamw")
    doubted = Fake(tuned_recipe("adamw", "adam"), flat)
    for number, row in enumerate(doubted.rows):
        if row.is_a_a:
            seeds = tuple(replace(trial, lr=9.0) for trial in row.seeds)
            doubted.rows[number] = replace(row, seeds=seeds)
            for trial in seeds:
                worse = replace(flat(trial), test_loss=3.0 + 0.0003 * trial.seed)
                doubted.results[trial.id] = result(trial, worse)
    found = doubted.board()
    assert found.aa is not None
    assert found.aa.differs
    assert "DO NOT TRUST THIS BOARD" in found.to_markdown().split("| rank")[0]
    assert json.loads(found.to_json())["aa"]["rows"] == ["adamw", "adamw A/A"]


def test_rows_trained_on_other_batches_take_no_part_in_claims():
    """One seed on other data is enough; the row keeps its losses and is named at the top."""

    def outcome(trial: TrialSpec) -> RunRecord:
        its = flat(trial)
        other = trial.spec == "lion" and trial.seed == 3
        return replace(its, test_loss=1.0, batches_hash="other") if other else its

    found = Fake(tuned_recipe("adamw", "lion", "adam"), outcome).board()
    row = next(row for row in found.rows if row.label == "lion")
    assert found.other_data == ("lion",)
    assert row.verdict.differs is row.verdict.rank_interval is None
    assert row.test_loss is not None
    assert "Trained on other batches" in found.to_markdown().split("| rank")[0]
    assert {r.verdict.rank_interval for r in found.rows if r is not row} == {(1, 3)}


def test_the_baseline_saw_the_right_batches_where_two_rows_disagree():
    """Not the one that is listed first."""

    def outcome(trial: TrialSpec) -> RunRecord:
        return record(trial, train_loss=1.0, batches_hash=trial.spec)

    recipe = override(TINY, {"optimizers": ["lion", "adamw"]})
    assert Fake(recipe, outcome).board().other_data == ("lion",)


def test_losses_at_equal_cost():
    """Each loss counts for the passes, or the seconds, of its step; a plain row's are its own."""
    losses = [4.0, 3.0, 2.0, 1.0]

    def run(seconds: float, compile_s: float, passes: list[float] | None) -> dict[str, Any]:
        extra = 0.0 if passes is None else sum(passes) / 4 - 1
        curves = Curves(losses=losses, step_passes=passes)
        costs = {"train_wall_s": seconds, "compile_s": compile_s, "extra_passes": extra}
        return done(2.5, **costs, curves=curves)

    outcomes = [
        run(9.0, 1.0, None),
        run(16.0, 0.0, [2.0] * 4),
        run(24.0, 0.0, [9.0, 2.0, 2.0, 2.0]),
    ]
    found = board("adam", "sam+adam", "svrg+adam", "sgd", outcomes=[*outcomes, OOM])
    told = {
        row.optimizer: (
            row.costs.passes_per_step,
            row.at_equal_cost.loss_at_equal_passes,
            row.at_equal_cost.loss_at_equal_time,
        )
        for row in found.rows
    }
    assert told["adam"] == (1.0, 2.5, 2.5)
    assert told["sam+adam"] == (2.0, 3.5, 3.5)
    # Its first step takes 9 of 15 passes, and 8 s of 24 pay for 5 of them.
    assert told["svrg+adam"] == (3.75, None, None)
    assert told["sgd"] == (None, None, None)


def test_only_the_curves_of_finished_seeds_are_read():
    """A table of ten thousand trials does not open those of their searches."""
    fake = Fake(tuned_recipe("adamw", "sgd"), flat)
    read: list[int] = []

    def reading(trial: TrialSpec) -> Curves:
        read.append(trial.seed)
        return Curves(losses=[1.0])

    fake.results = {
        id: replace(one, curves=lambda trial=one.trial: reading(trial))
        for id, one in fake.results.items()
    }
    fake.board()
    assert sorted(read) == sorted([1, 2, 3, 4, 5] * 3)


def test_rows_measured_elsewhere_are_counted():
    """By row, whichever of its trials it was."""
    fake = Fake(tuned_recipe("adamw", "sgd"), flat)
    trial = fake.rows[1].search[2]
    fake.results[trial.id] = result(trial, flat(trial), replace(HERE, threads=9))
    found = fake.board()
    assert found.measured_elsewhere == 1
    assert found.to_dict()["environment"]["rows_measured_elsewhere"] == 1


def test_rows_that_read_more_than_their_batches_are_named():
    """SVRG's snapshot is a pass over the data: its loss is not one at equal data."""
    outcomes = [done(2.0, extra_passes=0.0), done(1.0, extra_passes=12.33), done(1.5)]
    notes = board("adamw", "svrg", "svrg+lion", outcomes=outcomes).notes()
    (told,) = [note for note in notes if note.startswith("Not at equal data")]
    assert told.endswith("their own batches: svrg (13.3 passes a step), svrg+lion.")
    assert not any("equal data" in note for note in board("sam", outcomes=[done(1.0)]).notes())


def test_weight_decay_is_what_each_row_got():
    """From the recipe, from its own arguments, or its own default; the exceptions are noted."""
    groups = {"hyperparameters": [{"lr": 1.0, "weight_decay": 0.25}, {"weight_decay": 0.0}]}
    entries = ["adamw", {"spec": "adam", "args": {"weight_decay": 0.5}}]
    recipe = tuned_recipe(*entries, **{"training.weight_decay": 0.25})
    found = Fake(recipe, lambda t: replace(flat(t), **groups)).board()
    assert {r.optimizer: r.weight_decay for r in found.rows} == {"adamw": 0.25, "adam": 0.5}
    assert "Weight decay 0.25 for all, but its own: adam 0.5." in found.notes()
    none = override(TINY, {"optimizers": ["adamw", "sgd"], "training.weight_decay": None})
    told = Fake(none, lambda t: record(t, **done(1.0), **(groups if t.spec == "sgd" else {})))
    assert {r.optimizer: r.weight_decay for r in told.board().rows} == {"adamw": None, "sgd": 0.25}


def test_an_unknown_untouched_model_leaves_out_what_needs_it():
    """No number is made up: neither for failures, nor for the gain."""
    fake = Fake(tuned_recipe("adamw"), lambda t: failed(t) if t.lr > 2e-3 else flat(t))
    known, unknown = fake.board(UNTOUCHED).rows[0].tuning, fake.board(Untouched()).rows[0].tuning
    assert known.with_tries is not None
    assert unknown.with_tries is not None
    assert known.with_tries["1"] is not None
    assert unknown.with_tries["1"] is None
    assert known.sensitivity is not None
    assert (unknown.sensitivity, unknown.lr_tolerance) == (None, None)


def test_an_edge_that_the_search_reached_is_told():
    """Lower losses at ever lower lrs."""
    found = Fake(tuned_recipe("adamw"), lambda t: replace(flat(t), eval_loss=1 + t.lr)).board()
    assert {row.tuning.edges for row in found.rows} == {("lower",)}
