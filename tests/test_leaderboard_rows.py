"""From stored results to ranked rows and their notes."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.rows import rank_rows
from optbench_llm.leaderboard.store import TrialResult
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial import Inputs, plan_trials
from optbench_llm.terminal import make_console

TINY = load_recipe("tiny-gpt2")


def results(*entries: Any, records: list[dict[str, Any]], **changes: Any) -> list[TrialResult]:
    """Results of the default recipe with these rows, in order."""
    recipe = override(TINY, {"optimizers": list(entries), **changes})
    trials = plan_trials(recipe, Inputs("m", "d"))
    return [
        TrialResult(trial.to_dict(), trial.id, record, [], {})
        for trial, record in zip(trials, records, strict=True)
    ]


def done(train_loss: float, eval_loss: float = 1.0) -> dict[str, Any]:
    return {"status": "done", "train_loss": train_loss, "eval_loss": eval_loss}


def test_equal_losses_share_a_rank_and_failures_the_last():
    """Nobody wins by the order of a list, and a failure never stands above a result."""
    failed = {"status": "oom", "reason": "out of memory"}
    rows = rank_rows(
        results("sgd", "adam", "lamb", "lars", records=[failed, done(2.0), done(1.0), done(2.0)]),
        "train_loss",
    )
    ranks = [(row["optimizer"], row["rank"]) for row in rows]
    assert ranks == [("lamb", 1), ("adam", 2), ("lars", 2), ("sgd", 4)]


def test_the_recipe_says_what_is_ranked_by():
    """Ranking by eval loss puts the better eval loss first."""
    found = results("adam", "sgd", records=[done(1.0, 3.0), done(2.0, 2.0)])
    assert [row["optimizer"] for row in rank_rows(found, "eval_loss")] == ["sgd", "adam"]


def test_a_row_without_the_loss_to_rank_by_comes_after_those_with_one():
    """A store from before a change of rank_by is ranked, not refused with a traceback."""
    unknown = {"status": "done", "train_loss": 0.5, "eval_loss": None}
    found = results("adam", "sgd", "lamb", records=[unknown, done(1.0), unknown])
    ranks = [(row["optimizer"], row["rank"]) for row in rank_rows(found, "eval_loss")]
    assert ranks == [("sgd", 1), ("adam", 2), ("lamb", 2)]


@pytest.mark.parametrize(
    ("entries", "changes", "labels"),
    [
        (["adam", "sgd"], {}, ["adam", "sgd"]),
        (["adam", {"spec": "adam", "lr": 0.5}], {}, ["adam lr=0.001", "adam lr=0.5"]),
        (["adam", {"spec": "adam", "args": {"eps": 0.1}}], {}, ["adam", "adam eps=0.1"]),
        (
            ["sgdp", {"spec": "sgdp", "schedule": "constant"}],
            {},
            ["sgdp cosine", "sgdp constant"],
        ),
        (["adam"], {"seeds": [1, 2]}, ["adam seed=1", "adam seed=2"]),
    ],
)
def test_rows_of_one_optimizer_are_told_apart(entries, changes, labels):
    """The label says what differs, and no more."""
    count = len(labels)
    found = results(*entries, records=[done(float(i)) for i in range(count)], **changes)
    assert [row["label"] for row in rank_rows(found, "train_loss")] == labels


def test_published_figures_belong_to_plain_names_alone():
    """Other storages and other implementations were not in the published table."""
    found = results("lion", "lion@int8", {"spec": "torch:SGD", "lr": 0.1}, records=[done(1.0)] * 3)
    figures = {row["optimizer"]: row["published_loss"] for row in rank_rows(found, "train_loss")}
    assert figures == {"lion": 2.4041, "lion@int8": None, "torch:SGD": None}


def test_notes_tell_reasons_exceptions_and_machine():
    """What one must know to read the table stands under it."""
    failed = {"status": "diverged", "reason": "loss is nan at step 3"}
    found = results("sgd", "adamw-schedulefree", records=[failed, done(1.0)])
    environment = {"versions": {"torch": "2.13"}, "processor": "Some CPU", "cores": 2}
    environment["rows_measured_elsewhere"] = 1
    board = Board(TINY, environment, rank_rows(found, "train_loss"))
    notes = "\n".join(board.notes())
    assert "sgd: diverged: loss is nan at step 3" in notes
    assert "1 of 2 rows were measured on another machine" in notes
    assert "losses may differ in the last digits" in notes
    assert "Some CPU, 2 cores; torch 2.13." in notes


def notes_of(board: Board) -> str:
    return "\n".join(board.notes())


def test_each_row_with_another_schedule_is_listed_with_what_it_had():
    """Only a schedule that the method itself demands is put down to it."""
    entries = ["adamw-schedulefree", {"spec": "sgd", "schedule": "constant"}]
    found = results(*entries, {"spec": "adam", "schedule": "linear"}, records=[done(1.0)] * 3)
    environment = {"versions": {}, "processor": "Some CPU", "cores": 2}
    notes = notes_of(Board(TINY, environment, rank_rows(found, "train_loss")))
    assert (
        "Schedules other than cosine: adamw-schedulefree constant, as the method demands; "
        "sgd constant; adam linear." in notes
    )


def printed(width: int) -> str:
    """The table as a terminal of this width shows it."""
    found = results("adam", records=[{**done(1.0), "steps": 3, "peak_mem_bytes": 2**20}])
    console = Console(file=io.StringIO(), width=width)
    console.print(Board(TINY, {}, rank_rows(found, "train_loss")).to_rich(console))
    return console.file.getvalue()


def test_a_narrow_terminal_loses_the_least_telling_columns_and_says_so():
    """The lr outlives what state and steps cost; what is hidden is named."""
    narrow = printed(70)
    assert " lr " in narrow
    assert "0.001" in narrow
    assert "B/param" not in narrow.split("hidden")[0]
    hidden = " ".join(narrow.split()).partition("Columns hidden, see leaderboard.md: ")[2]
    assert {"steps", "loss at equal time"} <= set(hidden.split(", "))
    assert "hidden" not in printed(200)


def test_a_pipe_gets_every_column(monkeypatch):
    """Nobody looks at a file through 80 columns."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    text = printed(make_console().width)
    assert all(word in text for word in ("lr", "steps", "MiB"))
    assert "hidden" not in text


@pytest.mark.parametrize(
    ("name", "words", "others"),
    [
        ("gpt2-alpaca-reference", "The same model and data", "never compare"),
        ("tiny-gpt2", "never compare", "The same model and data"),
    ],
)
def test_published_figures_are_compared_with_the_same_model_and_data_alone(name, words, others):
    """The reference board is made for that comparison, all others are not."""
    found = results("adam", records=[done(1.0)])
    environment = {"versions": {}, "processor": "Some CPU", "cores": 2}
    notes = notes_of(Board(load_recipe(name), environment, rank_rows(found, "train_loss")))
    assert words in notes
    assert others not in notes


#: A value for each measured entry of a record, no two alike in any unit.
MEASURED = {
    "train_loss": 2.125,
    "eval_loss": 3.25,
    "steps": 4,
    "tokens_per_s": 1234.0,
    "optimizer_step_ms": 5.5,
    "state_bytes_per_param": 8.75,
    "peak_mem_bytes": 600 * 2**20,
    "first_step_ms": 77.0,
    "first_loss": 6.5,
    "last_loss": 1.5,
    "initial_eval_loss": 9.5,
    "tokens": 999,
    "compile_s": 11.0,
    "train_wall_s": 21.0,
    "eval_wall_s": 0.75,
    "extra_passes": 1.25,
    "state_bytes": 33,
    "parameters": 44,
    "batches_hash": "ab",
    "engine": "compiled",
    "hyperparameters": [{"lr": 0.5}],
}


def test_every_column_shows_its_own_number_in_its_own_unit():
    """What was measured is what stands in a row, and under each heading of the table."""
    record = {"status": "done", **MEASURED, "step_passes": [3.0, 2.0, 2.0, 2.0]}
    (found,) = results({"spec": "lion", "lr": 0.125}, records=[record])
    rows = rank_rows([replace(found, losses=[4.0, 2.0, 1.5, 1.0])], "train_loss")
    assert {key: rows[0][key] for key in MEASURED} == MEASURED
    environment = {"versions": {}, "processor": "Some CPU", "cores": 2}
    lines = Board(TINY, environment, rows).to_markdown().splitlines()
    heading, _, line = [line for line in lines if line.startswith("| ")]
    titles, cells = ([cell.strip() for cell in x.split("|")[1:-1]] for x in (heading, line))
    assert dict(zip(titles, cells, strict=True)) == {
        "#": "1",
        "optimizer": "lion",
        "train loss": "2.1250",
        "eval loss": "3.2500",
        "passes /step": "2.25",
        # Of 4 passes the first step takes 3.
        "loss at equal passes": "3.5000",
        "loss at equal time": "2.3333",
        "published loss\\*": "2.4041",
        "lr": "0.125",
        "steps": "4",
        "tokens/s": "1,234",
        "optimizer ms/step": "5.50",
        "state B/param": "8.75",
        "peak MiB": "600",
        "status": "done",
    }


@pytest.mark.parametrize("metric", ["train_loss", "eval_loss"])
def test_the_note_names_the_loss_that_ranks(metric):
    """The one that the recipe says."""
    recipe = override(TINY, {"rank_by": metric})
    environment = {"versions": {}, "processor": "Some CPU", "cores": 2}
    notes = notes_of(
        Board(recipe, environment, rank_rows(results("adam", records=[done(1.0)]), metric))
    )
    assert f"Ranked by {metric.replace('_', ' ')}, lower is better" in notes


def test_losses_at_equal_cost():
    """Each loss counts for the passes, or the seconds, of its step; a plain row's are its own."""
    losses = [4.0, 3.0, 2.0, 1.0]
    failed = {"status": "oom", "reason": "out of memory"}
    plain = {**done(2.5), "train_wall_s": 9.0, "compile_s": 1.0}
    sam = {**done(2.5), "train_wall_s": 16.0, "compile_s": 0.0, "step_passes": [2.0] * 4}
    svrg = {
        **done(2.5),
        "train_wall_s": 24.0,
        "compile_s": 0.0,
        "step_passes": [9.0, 2.0, 2.0, 2.0],
    }
    found = results("adam", "sam+adam", "svrg+adam", "sgd", records=[plain, sam, svrg, failed])
    rows = {
        row["optimizer"]: row
        for row in rank_rows([replace(r, losses=losses) for r in found], "train_loss")
    }
    costs = {
        name: (row["passes_per_step"], row["loss_at_equal_passes"], row["loss_at_equal_time"])
        for name, row in rows.items()
    }
    assert costs["adam"] == (1.0, 2.5, 2.5)
    assert costs["sam+adam"] == (2.0, 3.5, 3.5)
    # Its first step takes 9 of 15 passes, and 8 s of 24 pay for 5 of them.
    assert costs["svrg+adam"] == (3.75, None, None)
    assert costs["sgd"] == (None, None, None)


@pytest.mark.parametrize("passes", [None, [2.0, 2.0]])
def test_columns_of_passes_stand_where_steps_take_several(passes):
    """A table of plain optimizers has no column that repeats another."""
    record = {**done(1.0), "train_wall_s": 1.0, "compile_s": 0.0, "step_passes": passes}
    (found,) = results("adam", records=[record])
    rows = rank_rows([replace(found, losses=[1.0, 1.0])], "train_loss")
    environment = {"versions": {}, "processor": "Some CPU", "cores": 2}
    text = Board(TINY, environment, rows).to_markdown()
    assert ("loss at equal passes" in text) == ("over as many forward" in text) == bool(passes)
    assert "loss at equal time" in text
