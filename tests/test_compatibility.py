"""The table of compatibility holds what tests showed, and nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import compatibility
import pytest
from compatibility import PAGE, Results, as_page

import optbench_llm as ob
from optbench_llm.compatibility import CIRCUMSTANCES, shown

SAID = "optimizer 'lamb' needs whole tensors; use DDP"
#: All that a session of two rows in two circumstances may report.
COMPLETE = [("adamw", ["DDP", "LoRA"], None), ("lamb", ["DDP"], None), ("lamb", ["LoRA"], SAID)]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A catalog of two rows, two circumstances, and no table yet."""
    monkeypatch.setattr(compatibility, "list_optimizers", lambda: ["lamb", "adamw"])
    monkeypatch.setattr(compatibility, "CIRCUMSTANCES", ("DDP", "LoRA"))
    monkeypatch.setattr(compatibility, "FILE", tmp_path / "compatibility.json")
    monkeypatch.setattr(compatibility, "PAGE", tmp_path / "COMPATIBILITY.md")
    return tmp_path


def session(reports: list[Any], *, writes: bool, outcome: str = "passed") -> tuple[Any, list[str]]:
    """The exit status of a session with these results, and what it complains about."""
    results = Results(writes=writes)
    for index, (row, circumstances, refusal) in enumerate(reports):
        properties = [("shows", [row, *circumstances])]
        if refusal:
            properties.append(("refused", refusal))
        ended = outcome if index == 0 else "passed"
        report: Any = SimpleNamespace(
            user_properties=properties, when="call", nodeid=f"tests/test_x.py::test[{row}]",
            passed=ended == "passed", failed=ended == "failed",
        )  # fmt: skip
        results.pytest_runtest_logreport(report)
    of: Any = SimpleNamespace(
        exitstatus=0, config=SimpleNamespace(option=SimpleNamespace(collectonly=False))
    )
    results.pytest_sessionfinish(of)
    lines: list[str] = []
    results.pytest_terminal_summary(SimpleNamespace(write_line=lambda s, **_: lines.append(s)))
    return of.exitstatus, lines


def test_what_tests_showed_is_written_and_found_again(small):
    """A cell names its test; a refusal what was said, up to the advice."""
    status, _ = session(COMPLETE, writes=True)
    assert status == 0
    test = "tests/test_x.py::test[lamb]"
    assert json.loads((small / "compatibility.json").read_text())["lamb"] == {
        "DDP": {"works": True, "test": test},
        "LoRA": {"works": False, "reason": SAID.partition(";")[0], "test": test},
    }
    page = (small / "COMPATIBILITY.md").read_text()
    assert "| `lamb` | works | refused[^1] |\n| works, of all rows | 2 of 2 | 1 of 2 |" in page
    assert "[^1]: needs whole tensors." in page
    assert session(COMPLETE, writes=False) == (0, [])


@pytest.mark.parametrize("outcome", ["skipped", "failed"])
def test_a_cell_without_a_test_that_passes_fails_the_session(small, outcome):
    """And nothing is written."""
    status, lines = session(COMPLETE, writes=True, outcome=outcome)
    why = "a test failed" if outcome == "failed" else "no test showed it"
    assert status == pytest.ExitCode.TESTS_FAILED
    assert lines == [f"compatibility: adamw x {c}: {why}" for c in ("DDP", "LoRA")]
    assert list(small.iterdir()) == []


def test_a_refusal_counts_for_more_than_a_test_that_passes(small):
    """Of one cell both are shown."""
    session([*COMPLETE, ("lamb", ["DDP"], SAID)], writes=True)
    assert not json.loads((small / "compatibility.json").read_text())["lamb"]["DDP"]["works"]


def test_a_table_that_says_something_else_fails_the_session(small):
    """With the cell that differs; a page that was edited too."""
    session(COMPLETE, writes=True)
    changed = [*COMPLETE[:-1], ("lamb", ["LoRA"], None)]
    status, lines = session(changed, writes=False)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "lamb x LoRA" in lines[0]
    (small / "COMPATIBILITY.md").write_text("adamw works everywhere")
    status, lines = session(COMPLETE, writes=False)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "--compatibility=write" in lines[0]


def test_the_committed_table_has_every_row_and_the_page_is_made_of_it():
    """No other row and no other circumstance."""
    table = shown()
    assert sorted(table) == sorted(ob.list_optimizers())
    assert {tuple(cells) for cells in table.values()} == {CIRCUMSTANCES}
    cells = {(row, c): cell for row, own in table.items() for c, cell in own.items()}
    assert PAGE.read_text(encoding="utf-8") == as_page(cells)
