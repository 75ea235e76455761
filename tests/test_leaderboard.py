"""The leaderboard end to end, with real workers on the embedded model."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import pytest
from command_line import run_here
from leaderboard_setup import leaderboard, losses, rows, write_recipe

# The tenth is the one that a dirty process would show in first: it samples labels at random.
TEN = [
    "rmsprop",
    "lion-8bit",
    "{spec: sgd, lr: 1e18}",
    "adamw-schedulefree",
    "{spec: lion, args: {betas: [0.9, 0.98]}}",
    "adan",
    "adamp",
    "lamb",
    "adafactor",
    "sophia",
]
# It wants sparse gradients, which a language model on the CPU does not give it.
FAILING = "{spec: 'torch:SparseAdam', lr: 0.001}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A board of ten rows and a failing one, run by one warm worker: (recipe, store, process)."""
    folder = tmp_path_factory.mktemp("board")
    recipe = write_recipe(folder, *TEN, FAILING)
    process = leaderboard(recipe, "--store", folder / "store")
    assert process.returncode == 0, process.stdout + process.stderr
    return recipe, folder / "store", process


def snapshot(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` with its time of change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_failed_optimizer_is_a_row_and_stops_nobody(finished):
    """Nine are done; the diverged and the broken one stand last, with reasons, without losses."""
    board = json.loads((finished[1] / "leaderboard.json").read_text())
    statuses = [row["status"] for row in board["rows"]]
    assert statuses == ["done"] * 9 + ["diverged", "error"]
    diverged, broken = board["rows"][-2:]
    assert (diverged["optimizer"], broken["optimizer"]) == ("sgd", "torch:SparseAdam")
    assert "at step" in diverged["reason"]
    assert "dense gradients" in broken["reason"]
    assert broken["train_loss"] is None
    assert {diverged["rank"], broken["rank"]} == {10}


def test_rows_are_ranked_by_train_loss(finished):
    """Lower is better, and the rank says so."""
    done = [row for row in rows(finished[1]).values() if row["status"] == "done"]
    assert [row["rank"] for row in done] == list(range(1, 10))
    assert [row["train_loss"] for row in done] == sorted(row["train_loss"] for row in done)


def test_every_measured_column_of_a_finished_row_is_filled(finished):
    """Loss, speed, state and memory: nothing that a row should tell is missing or zero."""
    for row in rows(finished[1]).values():
        if row["status"] == "done":
            for key in ("train_loss", "eval_loss", "tokens_per_s", "optimizer_step_ms"):
                assert row[key] > 0, (row["optimizer"], key)
            assert row["steps"] == 3
            assert row["state_bytes_per_param"] > 0
            assert row["peak_mem_bytes"] > 2**20


def test_all_rows_saw_the_same_batches(finished):
    """The comparison is paired: one order of data for every optimizer."""
    done = [row for row in rows(finished[1]).values() if row["status"] == "done"]
    assert len({row["batches_hash"] for row in done}) == 1


def test_json_csv_and_markdown_agree(finished):
    """Three forms of one table: same rows, same order, same numbers."""
    store = finished[1]
    board = json.loads((store / "leaderboard.json").read_text())
    assert {"recipe", "environment", "track", "rows"} <= set(board)
    with open(store / "leaderboard.csv", newline="") as file:
        in_csv = list(csv.DictReader(file))
    lines = (store / "leaderboard.md").read_text().splitlines()
    in_markdown = [[c.strip() for c in x.split("|")[1:-1]] for x in lines if x.startswith("| ")][2:]
    assert len(board["rows"]) == len(in_csv) == len(in_markdown) == 11
    for row, line, cells in zip(board["rows"], in_csv, in_markdown, strict=True):
        assert list(line) == list(row)
        loss = row["train_loss"]
        assert line["train_loss"] == ("" if loss is None else repr(loss))
        assert cells[0] == str(row["rank"]) == line["rank"]
        assert cells[1] == row["optimizer"] == line["optimizer"]
        assert cells[2] == ("–" if loss is None else f"{loss:.4f}")
        assert cells[-1] == row["status"] == line["status"]


def test_the_page_is_written_last_and_has_every_row(finished):
    """With the reasons of those that failed; it is what the last line names."""
    store, process = finished[1:]
    page = (store / "index.html").read_text()
    for row in rows(store).values():
        assert f'data-label="{html.escape(row["label"])}"' in page
    assert html.escape(rows(store)["sgd"]["reason"]) in page
    assert "A demonstration: one seed" in page
    assert process.stdout.splitlines()[-1] == f"{store}/index.html shows it."


def test_published_figures_are_labelled_as_another_models(finished):
    """Nobody may take GPT-2's published losses for this board's."""
    store, process = finished[1:]
    assert rows(store)["sophia"]["published_loss"] == 3.1517
    for text in (process.stdout, (store / "leaderboard.md").read_text()):
        assert "GPT-2 on Alpaca" in text
        assert "never compare" in " ".join(text.split())


def test_the_untouched_model_is_measured_once(finished):
    """What all rows start from is told beside them."""
    board = json.loads((finished[1] / "leaderboard.json").read_text())
    assert board["untouched"]["eval_loss"] > 0
    assert finished[2].stdout.count("\nuntouched model: eval loss") == 1


# Trains again in fresh processes.
@pytest.mark.slow
@pytest.mark.parametrize("spec", ["sophia", "lion-8bit"])
def test_the_tenth_trial_of_a_warm_worker_equals_the_same_alone(finished, tmp_path, spec):
    """Bit for bit: what ran before a trial, even a diverged one, leaves no trace in it."""
    recipe, store, _ = finished
    process = leaderboard(recipe, "--optim", spec, "--store", tmp_path / "alone")
    assert process.returncode == 0, process.stdout + process.stderr
    assert losses(tmp_path / "alone", spec) == losses(store, spec)
    here, there = rows(tmp_path / "alone")[spec], rows(store)[spec]
    assert here["eval_loss"] == there["eval_loss"]
    assert here["trial"] == there["trial"]


# Starts workers again.
@pytest.mark.slow
def test_a_second_run_does_only_what_is_missing(finished, tmp_path):
    """Done and diverged trials are kept as they are; the failed one is tried again, and said so."""
    recipe, store, _ = finished
    trials = {
        path: time for path, time in snapshot(store / "trials").items() if "SparseAdam" not in path
    }
    trials.pop(str(store / "trials"), None)
    process = leaderboard(recipe, "--optim", "rmsprop,sgd,adan", "--store", store)
    assert process.returncode == 0
    assert "0 trials to run, 3 already in" in process.stdout
    again = leaderboard(recipe, "--store", store)
    assert "1 trials to run, 10 already in" in again.stdout
    assert "tried again: torch:SparseAdam (error)" in again.stdout
    after = snapshot(store / "trials")
    assert {path: after[path] for path in trials} == trials
    assert len(rows(store)) == 11


def test_a_dry_run_tells_the_plan_and_writes_nothing(finished, tmp_path):
    """Before the first run and after it: what would run, what it may cost, and no new file."""
    recipe, store, _ = finished
    before = snapshot(store)
    known = run_here("leaderboard", recipe, "--store", store, "--dry-run")
    new = run_here("leaderboard", recipe, "--store", tmp_path / "new", "--dry-run")
    assert known.returncode == new.returncode == 0
    assert "1 of 11 trials would run" in known.stdout
    assert "torch:SparseAdam as the slowest, its steps failed: RuntimeError" in known.stdout
    assert "11 of 11 trials would run" in new.stdout
    assert "Estimate: about" in new.stdout
    assert snapshot(store) == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_dry_run_say_alike_what_is_cut(finished, tmp_path):
    """Before the first trial: of how many records the answer and the end token are lost."""
    recipe, _, process = finished
    planned = run_here("leaderboard", recipe, "--store", tmp_path / "new", "--dry-run")
    account = re.compile(
        r"^optbench:pydocs: [\d,]+ records\n  WARNING: [\d,]+ of [\d,]+ records \(\d+%\) are cut"
        r" at 64 tokens\n  end tokens lost: [\d,]+, answers cut short: .*\n(  .*\n)+",
        re.MULTILINE,
    )
    said = account.search(process.stdout)
    assert said is not None, process.stdout
    assert said[0] in planned.stdout
    assert process.stdout.index(said[0]) < process.stdout.index("[ 1/11]")


def test_a_store_of_other_settings_is_refused(finished):
    """Other steps in the same folder end in exit code 2 and one line that names the difference."""
    recipe, store, _ = finished
    process = run_here("leaderboard", recipe, "--store", store, "--max-steps", "5")
    assert process.returncode == 2
    assert "training.max_steps: 3 there, 5 here" in process.stderr
    assert "--store" in process.stderr
    assert "Traceback" not in process.stderr


# Starts a worker that loads torch.
@pytest.mark.slow
def test_what_only_a_worker_finds_wrong_ends_the_run_with_its_message(tmp_path):
    """A block size beyond the model's positions: refused with the reason, not a board of errors."""
    recipe = write_recipe(tmp_path, "adamw")
    recipe.write_text(recipe.read_text().replace("block_size: 64", "block_size: 4096"))
    process = leaderboard(recipe, "--store", tmp_path / "store")
    assert process.returncode == 2
    assert "block_size=4096" in process.stderr
    assert "Traceback" not in process.stderr
