"""The compatibility of the catalog's rows, gathered from the tests that show it.

A test with a parameter ``name`` or ``spec`` and the mark ``shows(circumstance, ...)`` fills cells
of its row: they work where it passes, or are refused where it showed that they are and gave the
reason by ``record_property("refused", message)``.

pytest -m shows --compatibility=write   # writes assets/compatibility.json and the page
pytest --compatibility=check            # fails where the two are not what the tests showed
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optbench_llm.catalog import list_optimizers
from optbench_llm.compatibility import CIRCUMSTANCES, FILE

PAGE = Path(__file__).parents[1] / "benchmarks" / "COMPATIBILITY.md"
INTRODUCTION = """\
# Where the optimizers run

Made by `pytest -m shows --compatibility=write` from the results of the tests, and compared with
them whenever all tests run with `--compatibility=check`. **works**: a test runs that row so and
passes; `optbench_llm/assets/compatibility.json` names it. **refused**: a test shows that the run
ends with that reason before its first step. `optbench-llm info NAME` tells the same of one row.
"""

Cells = dict[tuple[str, str], dict[str, Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compatibility",
        choices=("write", "check"),
        help="write down what the tests show of the catalog's rows, or compare it with what is",
    )


def pytest_configure(config: pytest.Config) -> None:
    asked = config.getoption("--compatibility")
    # Workers of pytest-xdist report to the one process that writes.
    if asked and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(writes=asked == "write"), "compatibility results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rows = set(list_optimizers())
    for item in items:
        circumstances = [c for mark in item.iter_markers("shows") for c in mark.args]
        unknown = set(circumstances) - set(CIRCUMSTANCES)
        assert not unknown, f"{item.nodeid} shows {unknown}, expected some of {CIRCUMSTANCES}"
        params = getattr(item, "callspec", None)
        row = params and params.params.get("name", params.params.get("spec"))
        if circumstances and row in rows:
            item.user_properties.append(("shows", [row, *circumstances]))


class Results:
    """What the tests of this session showed."""

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self._cells: Cells = {}
        self._failed: set[tuple[str, str]] = set()
        self._complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take down a test that has ended."""
        properties = dict(report.user_properties)
        if "shows" not in properties:
            return
        row, *circumstances = properties["shows"]  # pyright: ignore
        for circumstance in circumstances:
            place = (str(row), circumstance)
            if report.failed:
                self._failed.add(place)
            elif report.when == "call" and report.passed:
                cell = _cell(report.nodeid, properties.get("refused"))
                self._cells[place] = min(self._cells.get(place, cell), cell, key=_order)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write, or compare; the session fails where a cell has no test or another content."""
        if session.config.option.collectonly:
            return
        self._complaints = list(self._incomplete())
        if self._writes and not self._complaints:
            FILE.write_text(as_json(self._cells), encoding="utf-8")
            PAGE.write_text(as_page(self._cells), encoding="utf-8")
        elif not self._writes:
            self._complaints += self._differing()
        if self._complaints:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the cells."""
        for complaint in self._complaints:
            terminalreporter.write_line(f"compatibility: {complaint}", red=True)
        if self._writes and not self._complaints:
            terminalreporter.write_line(f"compatibility: wrote {FILE} and {PAGE}")

    def _incomplete(self) -> Iterator[str]:
        for place in _places():
            if place in self._failed:
                yield f"{_named(place)}: a test failed"
            elif place not in self._cells:
                yield f"{_named(place)}: no test showed it"

    def _differing(self) -> Iterator[str]:
        written = json.loads(FILE.read_text(encoding="utf-8"))
        for place in _places():
            row, circumstance = place
            there, found = written.get(row, {}).get(circumstance), self._cells.get(place)
            if found is not None and there != found:
                yield f"{_named(place)}: {FILE.name} says {there}, the tests showed {found}"
        if not self._complaints and PAGE.read_text(encoding="utf-8") != as_page(self._cells):
            yield f"{PAGE} is not that of the tests; run pytest -m shows --compatibility=write"


def _places() -> Iterator[tuple[str, str]]:
    return ((row, c) for row in sorted(list_optimizers()) for c in CIRCUMSTANCES)


def _named(place: tuple[str, str]) -> str:
    return f"{place[0]} x {place[1]}"


def _cell(test: str, refusal: Any) -> dict[str, Any]:
    """Of what a refusal says the first clause: what follows is advice."""
    if refusal is None:
        return {"works": True, "test": test}
    return {"works": False, "reason": str(refusal).partition("; ")[0], "test": test}


def _order(cell: dict[str, Any]) -> tuple[bool, str]:
    """Refusals first, then by test."""
    return cell["works"], cell["test"]


def as_json(cells: Cells) -> str:
    """All cells by row and circumstance."""
    by_row: dict[str, Any] = {}
    for place in _places():
        by_row.setdefault(place[0], {})[place[1]] = cells[place]
    return json.dumps(by_row, indent=1) + "\n"


def as_page(cells: Cells) -> str:
    """The table as Markdown, its reasons below it."""
    reasons: dict[str, int] = {}
    lines = [_line(["Row", *CIRCUMSTANCES]), _line(["---"] * (len(CIRCUMSTANCES) + 1))]
    for row in sorted(list_optimizers()):
        own = [cells[row, circumstance] for circumstance in CIRCUMSTANCES]
        lines.append(_line([f"`{row}`", *(_word(row, cell, reasons) for cell in own)]))
    counts = [_count(cells, circumstance) for circumstance in CIRCUMSTANCES]
    lines.append(_line(["works, of all rows", *counts]))
    notes = [f"[^{number}]: {reason}." for reason, number in reasons.items()]
    return "\n".join([INTRODUCTION, *lines, "", *notes]) + "\n"


def _line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def _word(row: str, cell: dict[str, Any], reasons: dict[str, int]) -> str:
    if cell["works"]:
        return "works"
    reason = cell["reason"].removeprefix(f"optimizer {row!r} ")
    return f"refused[^{reasons.setdefault(reason, len(reasons) + 1)}]"


def _count(cells: Cells, circumstance: str) -> str:
    own = [cell["works"] for (_, where), cell in cells.items() if where == circumstance]
    return f"{sum(own)} of {len(own)}"
