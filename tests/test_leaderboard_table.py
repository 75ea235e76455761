"""The board for people and for programs: columns, units, notes, widths."""

from __future__ import annotations

import csv
import io
import json
import math
import zlib
from typing import Any

import pytest
from fake_board import Fake, cells, failed, printed, record, tuned_recipe

from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord
from optbench_llm.terminal import make_console

TINY = load_recipe("tiny-gpt2")
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

_KEYS = """
rank optimizer label status reason train_loss eval_loss published_loss lr steps
tokens_per_s optimizer_step_ms state_bytes_per_param peak_mem_bytes passes_per_step
loss_at_equal_passes loss_at_equal_time schedule arguments hyperparameters engine
parameters test_loss seeds search test_loss_interval test_loss_interval_records
difference difference_interval p_adjusted differs rank_interval lr_margin edges
loss_at_declared_lr declared_lr sensitivity lr_tolerance with_tries
equivalent_baseline_steps finished weight_decay a_a rule_version
"""


def board(*entries: Any, recipe: str = "tiny-gpt2", **values: Any) -> Board:
    """A board whose trials all gave the same."""
    changed = override(load_recipe(recipe), {"optimizers": list(entries)})
    told = {"train_loss": 1.0, "eval_loss": 1.0, **values}
    return Fake(changed, lambda trial: record(trial, **told)).board()


def tuned(trial: TrialSpec) -> RunRecord:
    """A trial of a tuned board: sgd is worse than the others, and lion runs out of memory once."""
    noise = 0.01 * (zlib.crc32(trial.id.encode()) % 100 / 100 - 0.5)
    loss = 2.8 + noise + (0.5 if trial.spec == "sgd" else 0.0)
    if trial.spec == "lion" and trial.seed == 3:
        return failed(trial, "oom", "out of memory")
    return record(
        trial, train_loss=loss + 0.1, eval_loss=loss, test_loss=loss, optimizer_step_ms=4.25,
        tokens_per_s=999.0, peak_mem_bytes=300 * 2**20, state_bytes_per_param=8.0,
        extra_passes=0.0, train_wall_s=30.0,
    )  # fmt: skip


def test_every_column_shows_its_own_number_in_its_own_unit():
    """What was measured is what stands in a row, and under each heading of the table."""
    curves = Curves(losses=[4.0, 2.0, 1.5, 1.0], step_passes=[3.0, 2.0, 2.0, 2.0])
    found = board({"spec": "lion", "lr": 0.125}, **MEASURED, curves=curves)
    row = json.loads(found.to_json())["rows"][0]
    assert {key: row[key] for key in MEASURED} == MEASURED
    assert cells(found, "lion") == {
        "#": "1",
        "optimizer": "lion",
        "train loss": "2.1250",
        "eval loss": "3.2500",
        "passes/step": "2.25",
        # Of 4 passes the first step takes 3.
        "loss at equal passes": "3.5000",
        "loss at equal time": "2.3333",
        "published loss†": "2.4041",
        "lr": "0.125",
        "steps": "4",
        "tokens/s": "1,234",
        "optim. ms": "5.50",
        "state B/param": "8.75",
        "peak MiB": "600",
        "seconds": "21.0",
        "status": "done",
    }


def test_a_tuned_row_shows_intervals_and_a_mark_where_it_differs():
    """Loss and difference with half of their intervals, ranks as an interval, no bare rank."""
    found = Fake(tuned_recipe("adamw", "sgd", "adam"), tuned).board()
    (sgd,) = [row for row in found.rows if row.label == "sgd"]
    verdict, line = sgd.verdict, cells(found, "sgd")
    assert verdict.test_loss_interval is not None
    assert verdict.difference_interval is not None
    low, high = verdict.test_loss_interval
    assert line["test loss"] == f"{sgd.test_loss:.4f}±{(high - low) / 2:.4f}".replace("±0", "±")
    low, high = verdict.difference_interval
    text = f"{verdict.difference:+.4f}±{(high - low) / 2:.4f}".replace("±0", "±")
    assert line["difference to adamw"] == f"{text}\\*"
    assert line["rank"] == "4"
    assert "#" not in line
    assert not cells(found, "adam")["difference to adamw"].endswith("*")
    assert cells(found, "adam")["rank"] == "1–3"


@pytest.mark.parametrize(
    ("lr", "shown"), [(0.00123, "0.00123"), (2.38e-4, "2.38e-4"), (1e-5, "1e-5"), (0.5, "0.5")]
)
def test_small_lrs_are_short(lr, shown):
    """Three digits in seven characters."""
    assert cells(board({"spec": "adam", "lr": lr}), "adam")["lr"] == shown


def test_80_columns_hold_what_a_reader_needs_first():
    """Ranks, loss, difference or what became of the row, lr and cost; the rest is named."""
    text = printed(
        Fake(tuned_recipe("adamw", "sgd", "adamw-schedulefree", "lion"), tuned).board(), 80
    )
    table = text.split("Columns hidden")[0]
    for word in ("rank", "optimizer", "test", "difference", "to adamw", " lr ", "optim."):
        assert word in table
    assert "baseline" in table
    assert "oom 4/5" in table
    assert "lion: oom: seed 3 of 5: out of memory" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "peak MiB" in text.split("Columns hidden")[1]
    assert "Lr tolerance:" not in text


def test_a_narrow_terminal_loses_the_least_telling_columns_and_says_so():
    """The lr outlives what state and steps cost; what is hidden is named."""
    values = {"steps": 3, "peak_mem_bytes": 2**20, "state_bytes_per_param": 8.0}
    values |= {"train_wall_s": 9.0, "curves": Curves(losses=[1.0])}
    narrow = printed(board("adam", **values), 66)
    assert " lr " in narrow
    assert "0.001" in narrow
    assert "B/param" not in narrow.split("hidden")[0]
    hidden = " ".join(narrow.split()).partition("Columns hidden, see leaderboard.md: ")[2]
    assert "steps" in hidden
    assert "hidden" not in printed(board("adam", **values), 200)


def test_a_pipe_gets_every_column(monkeypatch):
    """Nobody looks at a file through 80 columns."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    text = printed(board("adam", steps=3, peak_mem_bytes=2**20), make_console().width)
    assert all(word in text for word in ("lr", "steps", "MiB"))
    assert "hidden" not in text


def test_the_first_line_says_what_kind_of_board_it_is():
    """Nobody takes one untuned seed for a verdict."""
    found = board("adam")
    first = "A demonstration: one seed, each optimizer's declared lr, untuned."
    assert printed(found, 200).startswith(first)
    assert found.to_markdown().splitlines()[2].startswith(first)
    told = Fake(tuned_recipe("adamw"), tuned).board()
    assert printed(told, 200).startswith("Tuned: lr found in 8 trials of each row; test loss of 5")


def test_notes_tell_reasons_exceptions_and_machine():
    """What one must know to read the table stands under it."""
    recipe = override(TINY, {"optimizers": ["sgd", "adamw-schedulefree"]})

    def outcome(trial: TrialSpec) -> RunRecord:
        return failed(trial) if trial.spec == "sgd" else record(trial, train_loss=1.0)

    notes = "\n".join(Fake(recipe, outcome).board().notes())
    assert "sgd: diverged: loss is nan at step 3" in notes
    assert "Some CPU, 2 cores; torch 2.13." in notes
    assert "The untouched model: eval loss 4.2000, test loss 4.2500." in notes


def test_each_row_with_another_schedule_is_listed_with_what_it_had():
    """Only a schedule that the method itself demands is put down to it."""
    entries = ["adamw-schedulefree", {"spec": "sgd", "schedule": "constant"}]
    notes = "\n".join(board(*entries, {"spec": "adam", "schedule": "linear"}).notes())
    assert (
        "Schedules other than cosine: adamw-schedulefree constant, as the method demands; "
        "sgd constant; adam linear." in notes
    )


@pytest.mark.parametrize(
    ("name", "words", "others"),
    [
        ("gpt2-alpaca-reference", "The same model and data", "never compare"),
        ("tiny-gpt2", "never compare", "The same model and data"),
    ],
)
def test_published_figures_are_compared_with_the_same_model_and_data_alone(name, words, others):
    """The reference board is made for that comparison, all others are not."""
    notes = "\n".join(board("adam", recipe=name).notes())
    assert words in notes
    assert others not in notes


@pytest.mark.parametrize("metric", ["train_loss", "eval_loss"])
def test_the_note_names_the_loss_that_ranks(metric):
    """The one that the recipe says, and it stands first."""
    recipe = override(TINY, {"rank_by": metric, "optimizers": ["adam"]})
    found = Fake(recipe, lambda t: record(t, train_loss=1.0, eval_loss=2.0)).board()
    words = metric.replace("_", " ")
    assert f"Ranked by {words}, lower is better" in "\n".join(found.notes())
    assert list(cells(found, "adam"))[2] == words


@pytest.mark.parametrize("passes", [None, [2.0, 2.0]])
def test_columns_of_passes_stand_where_steps_take_several(passes):
    """A table of plain optimizers has no column that repeats another."""
    curves = Curves(losses=[1.0, 1.0], step_passes=passes)
    extra = 1.0 if passes else 0.0
    text = board("adam", train_wall_s=1.0, extra_passes=extra, curves=curves).to_markdown()
    assert ("loss at equal passes" in text) == ("forward and backward" in text) == bool(passes)
    assert "loss at equal time" in text


def test_few_seeds_are_noted():
    """Under five, intervals are worth little."""
    few = Fake(tuned_recipe("adamw", "adam", seeds=[1, 2, 3]), tuned).board().to_markdown()
    enough = Fake(tuned_recipe("adamw", "adam"), tuned).board().to_markdown()
    assert "3 seeds, fewer than 5" in few
    assert "fewer than" not in enough
    one = Fake(tuned_recipe("adamw", "adam", seeds=[1]), tuned).board()
    assert "One seed, fewer than 5: nothing can differ." in one.to_markdown()
    assert {row.verdict.rank_interval for row in one.rows} == {None}


@pytest.mark.parametrize("epochs", [None, 0.5])
def test_budgets_of_the_baseline_that_cannot_run_are_noted(epochs):
    """Other lengths are counted in steps; a recipe in epochs gets none, and is told."""
    length = {"training.max_steps": None if epochs else 150, "training.num_train_epochs": epochs}
    recipe = tuned_recipe("adamw", "sgd", **length)
    found = Fake(recipe, lambda trial: record(trial, eval_loss=1.0, test_loss=1.0)).board()
    told = [note for note in found.notes() if "baseline_budgets" in note]
    assert len(told) == (1 if epochs else 0)


def test_json_and_csv_hold_what_the_contract_names():
    """Every key, nested where it says so, and no NaN."""
    found = Fake(tuned_recipe("adamw", "sgd", "lion"), tuned).board()
    values = json.loads(found.to_json())
    assert values["track"] == "tuned"
    assert values["baseline"] == "adamw"
    assert values["untouched"] == {"eval_loss": 4.2, "test_loss": 4.25}
    assert {"rows", "difference", "difference_interval", "p_adjusted", "differs"} <= set(
        values["aa"]
    )
    assert values["noise_between_seeds"] > 0
    assert [e["spec"] for e in values["recipe"]["optimizers"]] == ["adamw", "sgd", "lion"]
    keys = _KEYS.split()
    for row in values["rows"]:
        assert set(keys) <= set(row)
        assert len(row["search"]) == 8
        assert set(row["seeds"][0]) == {
            "seed", "test_loss", "train_loss", "eval_loss", "status", "trial",
        }  # fmt: skip
        assert set(row["search"][0]) == {"lr", "validation_loss", "test_loss", "status", "trial"}
        assert set(row["with_tries"]) == {"1", "3", "5"}
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [line["label"] for line in lines] == [row["label"] for row in values["rows"]]
    assert json.loads(lines[0]["seeds"]) == values["rows"][0]["seeds"]
    assert math.isclose(float(lines[0]["test_loss"]), values["rows"][0]["test_loss"])
