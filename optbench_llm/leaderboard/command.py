"""What ``optbench-llm leaderboard`` does: recipe and changes in, a table and an exit code out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optbench_llm.catalog import expand
from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.board import Run, run_leaderboard
from optbench_llm.leaderboard.estimate import estimate
from optbench_llm.leaderboard.optimizer_settings import canonical_spec
from optbench_llm.leaderboard.plan import Plan, RowTrials, make_plan
from optbench_llm.leaderboard.progress import open_display
from optbench_llm.leaderboard.recipe import Recipe, load_recipe, override
from optbench_llm.leaderboard.store import Store, identity
from optbench_llm.stopping import exit_code
from optbench_llm.terminal import MISSING, make_console

ALL_RUN, NONE_DONE = 0, 1


def run_command(
    name_or_path: str,
    *,
    specs: Sequence[str] | None,
    changes: dict[str, Any],
    store: Path | None,
    workers: int,
    dry_run: bool,
) -> int:
    """Run or, with ``dry_run``, only plan a recipe's leaderboard; returns the exit code.

    Raises:
        ValueError: recipe, changes, specs, model, data or store are not usable.
    """
    recipe = changed(load_recipe(name_or_path), changes, specs)
    path = store or Path("runs") / recipe.name
    plan = make_plan(recipe)
    if dry_run:
        _print_plan(plan, path, workers)
        return ALL_RUN
    with open_display(make_console()) as display:
        run = run_leaderboard(plan, path, display, workers)
    _print_run(run, path)
    if run.stopped_by is not None:
        return exit_code(run.stopped_by)
    return ALL_RUN if run.any_done else NONE_DONE


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


def _print_run(run: Run, path: Path) -> None:
    console = make_console()
    board = run.board
    if board.rows:
        console.print()
        console.print(board.to_rich(console))
        for note in board.notes():
            console.print(note, style="dim", highlight=False, markup=False)
    if run.not_run:
        console.print(f"{run.not_run} trials were not run; the same command continues.")
    console.print(
        f"{path}/leaderboard.md, .csv and .json hold this table.", highlight=False, markup=False
    )


def _print_plan(plan: Plan, path: Path, workers: int) -> None:
    from rich import box
    from rich.table import Table

    store = Store.read(path, identity(plan.recipe, plan.inputs))
    agenda = Agenda(plan, store.by_id)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("optimizer")
    table.add_column("lr", justify="right")
    table.add_column("schedule")
    with_arguments = any(row.entry.args for row in agenda.rows)
    if with_arguments:
        table.add_column("arguments")
    table.add_column("in the store")
    for row in agenda.rows:
        arguments = " ".join(f"{k}={v}" for k, v in row.entry.args.items())
        lr = row.lr or plan.recipe.lr_of(row.entry)
        cells = [row.entry.spec, f"{lr:g}", plan.recipe.schedule_of(row.entry)]
        cells += [arguments] if with_arguments else []
        table.add_row(*cells, _in_store(row, agenda, store))
    console = make_console()
    recipe = plan.recipe
    budget = (
        f"{recipe.training.max_steps} steps"
        if recipe.training.max_steps
        else f"{recipe.training.num_train_epochs:g} epochs"
    )

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(
        f"{recipe.name}: {recipe.model} on {recipe.data.source}, {budget} each, {recipe.track_in_words}"
    )
    say(data_page(recipe))
    console.print(table)
    left = agenda.planned() - agenda.ended()
    say(f"{left} of {agenda.planned()} trials would run into {path}. Nothing was written.")
    say(str(estimate(plan, agenda, store, workers)))


def _in_store(row: RowTrials, agenda: Agenda, store: Store) -> str:
    """How many of a row's trials are there, and how those fared that are to run again."""
    results = [(trial, store.get(trial)) for trial in row.trials]
    there = sum(result is not None for _, result in results)
    again = sorted({r.record.status for t, r in results if r and agenda.is_to_run(t)})
    words = [f"{there} of {len(results)} known trials"] if there else [MISSING]
    return ", ".join(words + [f"{status} runs again" for status in again])


def data_page(recipe: Recipe) -> str:
    """What would become of the data's records; the model's tokenizer is loaded for it.

    Raises:
        ValueError: model or data cannot be used.
    """
    from optbench_llm.data import load_data
    from optbench_llm.models import load_tokenizer

    return load_data(recipe.data, load_tokenizer(recipe.model)).report.page
