"""What ``info`` tells of tuned boards: the lr that each found, and where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here

from optbench_llm.info_page import info_json
from optbench_llm.tuned_boards import tuned_boards


def row(**changes: Any) -> dict[str, Any]:
    """A row of a tuned board as its JSON has it, as far as it is read here."""
    return {
        "optimizer": "adamw",
        "lr": 0.00178,
        "test_loss": 2.8701,
        "finished": [5, 5],
        "edges": [],
        "arguments": {},
        "a_a": False,
        "search": [{"lr": 0.001, "validation_loss": 2.9}, {"lr": 1.0, "validation_loss": None}],
        "seeds": [{"test_loss": 2.87}, {"test_loss": None}],
        **changes,
    }


def write_board(store: Path, *rows: dict[str, Any]) -> Path:
    """A store with a tuned board of these rows."""
    training = {
        "max_steps": 150, "num_train_epochs": None, "batch_size": 8,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    recipe = {
        "name": "tiny-tuned",
        "model": "optbench:tiny-gpt2",
        "data": {"source": "optbench:pydocs", "block_size": 64},
        "training": training,
    }
    store.mkdir(parents=True)
    (store / "leaderboard-tuned.json").write_text(json.dumps({"recipe": recipe, "rows": rows}))
    return store


def test_the_lr_that_was_found_is_told_with_its_source(tmp_path):
    """In JSON and on the page, beside the declared one."""
    store = write_board(tmp_path / "store", row())
    (found,) = info_json("adamw", [store])["tuned_lrs"]
    expected = {
        "lr": 0.00178, "recipe": "tiny-tuned", "model": "optbench:tiny-gpt2",
        "data": "optbench:pydocs", "steps": 150, "test_loss": 2.8701, "store": str(store),
    }  # fmt: skip
    assert expected.items() <= found.items()
    page = run_here("info", "adamw", "--store", str(store)).stdout
    told = "0.00178, tiny-tuned (tiny-gpt2 on pydocs, 150 steps of 8 x 64), 5 seeds, test loss 2.87"
    (line,) = [line for line in page.splitlines() if "lr found" in line]
    assert " ".join(line.split()) == f"lr found {told}"


def test_an_edge_and_missing_seeds_are_told(tmp_path):
    """Beyond an edge there may be a better lr, and three seeds are not five."""
    store = write_board(tmp_path / "store", row(edges=["upper"], finished=[3, 5]))
    page = run_here("info", "adamw", "--store", str(store)).stdout
    assert "0.00178 (at the upper edge of what was tried), tiny-tuned" in page
    assert "3 of 5 seeds" in page


@pytest.mark.parametrize(
    "other",
    [
        {"a_a": True},
        {"arguments": {"betas": [0.9, 0.95]}},
        {"lr": None},
        {"test_loss": None},
        {"optimizer": "adamw@int8"},
    ],
)
def test_only_the_optimizers_own_row_tells(tmp_path, other):
    """Not its twin, nor one of other arguments or storage, nor one that has found no lr."""
    store = write_board(tmp_path / "store", row(lr=0.5) | other, row())
    assert [found["lr"] for found in info_json("adamw", [store])["tuned_lrs"]] == [0.00178]


def test_boards_in_runs_are_found_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    """One warning line, and the page as before."""
    monkeypatch.chdir(tmp_path)
    write_board(Path("runs/good"), row(lr=0.123))
    write_board(Path("runs/bad"), row(finished="many"))
    (write_board(Path("runs/cut")) / "leaderboard-tuned.json").write_text('{"recipe": {')
    asked = run_here("info", "adamw")
    assert asked.returncode == 0
    assert "0.123, tiny-tuned" in asked.stdout
    warnings = asked.stderr.strip().splitlines()
    assert [line.split(": is no whole")[0] for line in warnings] == [
        f"warning: runs/{name}/leaderboard-tuned.json" for name in ("bad", "cut")
    ]


def test_without_a_board_nothing_is_told(tmp_path, monkeypatch):
    """Neither a line nor a warning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optbench_llm.tuned_boards.PACKAGE", tmp_path / "package" / "optbench_llm")
    assert tuned_boards() == ([], [])
    assert info_json("adamw")["tuned_lrs"] == []


def test_the_board_that_ships_is_found(tmp_path, monkeypatch):
    """In a checkout beside the benchmarks, in a wheel in the package itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optbench_llm.tuned_boards.PACKAGE", tmp_path / "optbench_llm")
    board = write_board(tmp_path / "benchmarks" / "boards" / "tiny-tuned", row(lr=0.25))
    assert info_json("adamw")["tuned_lrs"][0]["lr"] == 0.25
    (tmp_path / "optbench_llm" / "boards").mkdir(parents=True)
    text = (board / "leaderboard-tuned.json").read_text().replace("0.25", "0.75")
    (tmp_path / "optbench_llm" / "boards" / "tiny-tuned.json").write_text(text)
    assert [found["lr"] for found in info_json("adamw")["tuned_lrs"]] == [0.75]


def test_a_store_that_was_named_must_hold_a_board(tmp_path):
    """One line and exit code 2."""
    asked = run_here("info", "adamw", "--store", str(tmp_path))
    assert asked.returncode == 2
    assert "holds no tuned board (no leaderboard-tuned.json)" in asked.stderr


def test_reading_boards_costs_no_heavy_package():
    """A page of facts comes at once."""
    code = "import sys, optbench_llm.info_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
