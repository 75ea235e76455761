"""A board in parts, on machines that share nothing, is the board of one."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_board import HERE
from leaderboard_setup import leaderboard, losses, rows, write_recipe
from test_agenda import ROWS, board, outcome, plan_of, work
from typer.testing import CliRunner

from optbench_llm.cli import app
from optbench_llm.leaderboard.forecast import default_store
from optbench_llm.leaderboard.merge import merge
from optbench_llm.leaderboard.plan import Part
from optbench_llm.leaderboard.store import Store


@pytest.mark.parametrize("parts", [1, 2, 5, 9])
def test_parts_run_every_trial_once_and_merge_to_the_whole(tmp_path, parts):
    """Search, seeds, A/A row and the baseline's other lengths, wherever each falls.

    The baseline's two rows, whose searches may ask for the same trials, are of one part.
    """
    whole = {}
    work(plan_of(), whole, outcome, 1, random.Random(0))
    stores, count = [], 0
    for number in range(1, parts + 1):
        results = {}
        agenda = work(
            replace(plan_of(), part=Part(number, parts)), results, outcome, 2, random.Random(number)
        )
        assert agenda.ended() == agenda.planned() == len(results)
        count += len(results)
        path = tmp_path / f"part-{number}"
        with Store.open(path, plan_of().identity) as store:
            store.add_rows(plan_of().recipe.optimizers)
            for one in results.values():
                store.put(one.trial, replace(one.record, curves=one.curves()), 1.0, HERE)
        stores.append(path)
    assert count == len(whole)
    if parts > 1:
        merge(stores, tmp_path / "merged")
        merged = Store.read(tmp_path / "merged")
        assert board(plan_of(), merged.by_id) == board(plan_of(), whole)
        assert [entry.spec for entry in merged.rows] == list(ROWS)


@pytest.mark.parametrize("text", ["0/5", "6/5", "2", "a/b", "2/0", "1/-1"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ValueError, match=r"expected I/N, such as 2/5"):
        Part.parse(text)


def test_each_part_has_a_store_of_its_own():
    """Slurm's array starts them all in one folder."""
    recipe = plan_of().recipe
    paths = {default_store(recipe, recipe, Part(n, 3)) for n in (1, 2, 3)}
    assert len(paths | {default_store(recipe, recipe)}) == 4
    assert Path("runs/tiny-tuned-part-2-of-3") in paths


def test_a_budget_is_of_a_whole_board():
    asked = CliRunner().invoke(app, ["leaderboard", "--part", "1/2", "--budget", "30m"])
    assert asked.exit_code == 2
    assert "--budget and --part: choose one" in asked.output


# Starts three leaderboards.
@pytest.mark.slow
def test_two_machines_that_share_nothing(tmp_path):
    """Each runs its part; merge joins them; then nothing is left to run."""
    recipe = write_recipe(tmp_path, "adamw", "lion", "sgd")
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, store in enumerate(parts, 1):
        ran = leaderboard(recipe, "--store", store, "--part", f"{number}/2")
        assert ran.returncode == 0, ran.stderr
        assert f"This is part {number}/2; optbench-llm merge" in ran.stdout
    assert [set(rows(store)) for store in parts] == [{"adamw", "sgd"}, {"lion"}]
    merged = tmp_path / "merged"
    asked = CliRunner().invoke(app, ["merge", *map(str, parts), "--into", str(merged)])
    assert asked.exit_code == 0, asked.output
    shutil.rmtree(parts[1])
    ran = leaderboard(recipe, "--store", merged)
    assert "0 trials to run, 3 already in" in ran.stdout
    assert set(rows(merged)) == {"adamw", "lion", "sgd"}
    assert losses(merged, "adamw") == losses(parts[0], "adamw")
