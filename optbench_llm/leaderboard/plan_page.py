"""What a dry run prints: the rows, what is left to run, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.baseline_page import baseline_lines
from optbench_llm.leaderboard.estimate import Costs, RowLeft, Unmeasured, duration, kinds, rows_left
from optbench_llm.leaderboard.executor import Site
from optbench_llm.leaderboard.forecast import Tell, forecast
from optbench_llm.leaderboard.memory_estimate import estimated_mem_bytes
from optbench_llm.leaderboard.plan import Plan, RowTrials
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.terminal import MISSING, make_console, plain_table

if TYPE_CHECKING:
    from rich.table import Table

_SLOWEST = 5


def print_plan(
    plan: Plan, path: Path, site: Site, costs: Costs | None, cut: Sequence[str], tell: Tell
) -> None:
    """Print a plan and its cost, which is found out unless ``costs`` tell it; write nothing.

    Raises:
        ValueError: model, data or store cannot be used.
    """
    recipe, console = plan.recipe, make_console()
    store = Store.read(path, plan.identity)
    agenda = Agenda(plan, store.by_id)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(f"{recipe.name}: {recipe.model} on {recipe.data.source}, {_length(recipe)} each,")
    say(recipe.track_in_words)
    for words in cut:
        say(words)
    say(data_page(recipe))
    console.print(_table(plan, agenda, store))
    rows = rows_left(plan, agenda)
    left = sum(len(row.steps) for row in rows)
    say(f"{left} of {left + agenda.ended()} trials would run into {path}. Nothing was written.")
    for line in baseline_lines(plan, agenda, store):
        say(line)
    if not left:
        say("Nothing is left to run.")
        return
    if costs is None:
        wanted = kinds(row.entry for row in rows if row.steps)
        try:
            costs = forecast(plan, wanted, store.results, site, tell)
        except Unmeasured as error:
            say(f"Estimate: none; {error}.")
            return
    elif recipe.training.max_steps is not None:
        costs = replace(costs, steps=recipe.training.max_steps)
    for line in _estimate(recipe, rows, costs, site.workers):
        say(line)


def _length(recipe: Recipe) -> str:
    training = recipe.training
    if training.max_steps:
        return f"{training.max_steps} steps"
    return f"{training.num_train_epochs:g} epochs"


def _table(plan: Plan, agenda: Agenda, store: Store) -> Table:
    table = plain_table()
    table.add_column("optimizer")
    table.add_column("lr", justify="right")
    table.add_column("schedule")
    with_arguments = any(row.entry.args for row in agenda.rows)
    if with_arguments:
        table.add_column("arguments")
    table.add_column("in the store")
    for row in agenda.rows:
        arguments = " ".join(f"{k}={v}" for k, v in row.entry.args.items())
        name = f"{row.entry.spec} (A/A)" if row.is_a_a else row.entry.spec
        lr = row.lr or plan.recipe.lr_of(row.entry)
        cells = [name, f"{lr:.3g}", plan.recipe.schedule_of(row.entry)]
        cells += [arguments] if with_arguments else []
        table.add_row(*cells, _in_store(row, agenda, store))
    return table


def _in_store(row: RowTrials, agenda: Agenda, store: Store) -> str:
    """How many of a row's trials are there, and how those fared that are to run again."""
    results = [(trial, store.get(trial)) for trial in row.trials]
    there = sum(result is not None for _, result in results)
    again = sorted({r.record.status for t, r in results if r and agenda.is_to_run(t)})
    words = [f"{there} of {len(results)} known trials"] if there else [MISSING]
    return ", ".join(words + [f"{status} runs again" for status in again])


def _estimate(recipe: Recipe, rows: Sequence[RowLeft], costs: Costs, workers: int) -> list[str]:
    wall = duration(costs.wall_s(rows, workers))
    with_workers = f"with {workers} worker{'' if workers == 1 else 's'}"
    to_run = [row for row in rows if row.steps]
    slowest = sorted(to_run, key=costs.row_s, reverse=True)[:_SLOWEST]
    named = ", ".join(f"{row.entry.spec} {duration(costs.row_s(row))[6:]}" for row in slowest)
    lines = [f"Estimate: {wall} {with_workers}.", f"Slowest rows, of one worker's time: {named}."]
    lines.append(f"It rests on: {'; '.join(costs.basis)}.")
    memory = _memory(recipe, to_run, costs)
    return [*lines, memory] if memory else lines


def _memory(recipe: Recipe, rows: Sequence[RowLeft], costs: Costs) -> str | None:
    rough = estimated_mem_bytes(recipe, (row.entry for row in rows))
    peak = costs.peak_mem_bytes(rows, recipe.processes_per_trial)
    told = [] if peak is None else [f"{peak / 2**30:.1f} GiB measured"]
    told += [] if rough is None else [f"{rough / 2**30:.1f} GiB by the model's size"]
    return f"Memory of a worker: {', '.join(told)}." if told else None


def data_page(recipe: Recipe) -> str:
    """What would become of the data's records; the model's tokenizer is loaded for it.

    Raises:
        ValueError: model or data cannot be used.
    """
    from optbench_llm.data import load_data
    from optbench_llm.models import load_tokenizer

    return load_data(recipe.data, load_tokenizer(recipe.model)).report.page
