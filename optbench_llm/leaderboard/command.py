"""What ``optbench-llm leaderboard`` does: recipe and changes in, a table and an exit code out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from optbench_llm.catalog import expand
from optbench_llm.leaderboard.board import Run, run_leaderboard
from optbench_llm.leaderboard.budget import budget_seconds
from optbench_llm.leaderboard.forecast import Fitted, Tell, default_store, within_budget
from optbench_llm.leaderboard.optimizer_settings import canonical_spec
from optbench_llm.leaderboard.placement import Placement
from optbench_llm.leaderboard.plan import Part, Plan, make_plan
from optbench_llm.leaderboard.plan_page import print_plan
from optbench_llm.leaderboard.progress import Display, open_display
from optbench_llm.leaderboard.recipe import Recipe, load_recipe, override
from optbench_llm.leaderboard.tracking import check_trackers
from optbench_llm.stopping import exit_code
from optbench_llm.terminal import make_console

ALL_RUN, NONE_DONE = 0, 1
#: A live page is no older than this when a trial ends.
_LIVE_PAGE_S = 30.0


def run_command(
    name_or_path: str,
    *,
    specs: Sequence[str] | None,
    changes: dict[str, Any],
    store: Path | None,
    dry_run: bool,
    placement: Placement | None = None,
    budget: str | None = None,
    part: str | None = None,
    live_report: bool = False,
    report_to: Sequence[str] = (),
) -> int:
    """Run or, with ``dry_run``, only plan a recipe's leaderboard; returns the exit code.

    A ``budget`` of time, such as ``30m``, cuts the board to what ends within it; a ``part``, such
    as ``2/5``, is every fifth row from the second on, for machines that share nothing. The page is
    written at the end and, as a ``live_report``, whenever the tables are.

    Raises:
        ValueError: recipe, changes, specs, placement, budget, part, model, data or store are not
            usable.
    """
    recipe = changed(load_recipe(name_or_path), changes, specs)
    its_part = None if part is None else Part.parse(part)
    check_trackers(report_to)
    if budget is not None:
        budget_seconds(budget)
        if its_part is not None:
            raise ValueError("--budget and --part: choose one; a budget is cut over all rows")
    plan = replace(make_plan(recipe), part=its_part)
    path = store or default_store(recipe, recipe, its_part)
    with (placement or Placement()).open(recipe.processes_per_trial) as site:
        fitted = Fitted(plan, path, None, ())
        with _measuring() as tell:
            if budget is not None:
                fitted = within_budget(plan, budget, store, site, tell)
            plan, path = fitted.plan, fitted.store
            if dry_run:
                print_plan(plan, path, site, fitted.costs, fitted.words, tell)
                return ALL_RUN
        with open_display(make_console()) as display:
            for words in (site.in_words, *fitted.words):
                if words is not None:
                    display.say(words)
            tables_written = _LivePage(path, plan, display) if live_report else None
            run = run_leaderboard(plan, path, display, site, tables_written, report_to)
    _print_run(run, path)
    if its_part is not None and not run.left:
        _print(f"This is part {its_part}; optbench-llm merge joins the parts' stores into one.")
    if not plan.own_entries():
        return ALL_RUN
    if run.board.rows:
        told = _write_page(path, plan, live=False) or f"{path}/index.html shows it."
        _print(told)
    if run.stopped_by is not None:
        return exit_code(run.stopped_by)
    return ALL_RUN if run.any_done else NONE_DONE


class _LivePage:
    """Writes the page when tables were written, unless it is new: that takes seconds."""

    def __init__(self, path: Path, plan: Plan, display: Display) -> None:
        self._path, self._plan, self._display = path, plan, display
        self._written = -math.inf

    def __call__(self) -> None:
        if time.monotonic() - self._written < _LIVE_PAGE_S:
            return
        fault = _write_page(self._path, self._plan, live=True)
        if fault is not None:
            self._display.say(fault)
        self._written = time.monotonic()


def _write_page(path: Path, plan: Plan, *, live: bool) -> str | None:
    """None, or why it could not be written, which takes nothing from a board."""
    from optbench_llm.report.command import refresh_page

    try:
        refresh_page(path, plan.recipe.its_track, live=live)
    except ValueError as error:
        return f"the page is not written: {error}"
    return None


@contextmanager
def _measuring() -> Iterator[Tell]:
    """What is being measured, on a terminal's last line while it is."""
    status = make_console().status("")

    def tell(text: str) -> None:
        status.update(f"measuring: {text}")
        status.start()

    try:
        yield tell
    finally:
        status.stop()


def changed(recipe: Recipe, changes: dict[str, Any], specs: Sequence[str] | None) -> Recipe:
    """The recipe with what the command line replaces.

    ``all`` among the specs stands for the whole catalog, a wildcard for the rows that match. A spec
    that the recipe lists keeps what the recipe sets for it; ``lr`` holds for every row.
    """
    values: dict[str, Any] = {}
    if specs is not None:
        values["optimizers"] = _entries(recipe, specs)
    track = changes.get("track")
    if track is not None and track != recipe.its_track:
        values |= {"track": track, "seeds": None}
        if track != "reference":
            values |= {"lr": "declared"}
    elif track is not None:
        values["track"] = track
    if changes.get("lr") is not None:
        entries = values.get("optimizers", [e.model_dump() for e in recipe.optimizers])
        values["optimizers"] = [{**entry, "lr": None} for entry in entries]
        values |= {"lr": changes["lr"], "lr_scale": 1.0}
    if changes.get("model") is not None:
        values["model"] = changes["model"]
    if changes.get("data") is not None:
        values["data.source"] = changes["data"]
    if changes.get("max_steps") is not None:
        values |= {"training.max_steps": changes["max_steps"], "training.num_train_epochs": None}
    if changes.get("processes_per_trial") is not None:
        values["processes_per_trial"] = changes["processes_per_trial"]
    if changes.get("seed") is not None:
        values["seeds"] = [changes["seed"]]
    return override(recipe, values) if values else recipe


def _entries(recipe: Recipe, specs: Sequence[str]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for canonical in dict.fromkeys(name for spec in specs for name in _named(recipe, spec)):
        listed = [e.model_dump() for e in recipe.optimizers if e.spec == canonical]
        entries += listed or [{"spec": canonical}]
    return entries


def _named(recipe: Recipe, item: str) -> list[str]:
    """The canonical specs that one item stands for; of several, the recipe's own come first."""
    names = [canonical_spec(name) for name in expand(item)]
    listed = [entry.spec for entry in recipe.optimizers if entry.spec in names]
    return [*listed, *(name for name in names if name not in listed)]


def _print(text: str) -> None:
    make_console().print(text, highlight=False, markup=False)


def _print_run(run: Run, path: Path) -> None:
    console = make_console()
    board = run.board
    if board.rows:
        console.print()
        console.print(board.to_rich(console))
        for note in board.notes(console):
            console.print(note, style="dim", highlight=False, markup=False)
    if run.left:
        console.print(f"{run.left} trials are left to run; the same command continues.")
    console.print(
        f"{path}/leaderboard.md, .csv and .json hold this table.", highlight=False, markup=False
    )
