"""Find out what a plan's trials cost, from stores and from measured steps; fit it to a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.budget import budget_seconds, cut, lengths
from optbench_llm.leaderboard.estimate import (
    Costs,
    RowLeft,
    all_costs,
    kinds,
    rows_left,
    stored_costs,
)
from optbench_llm.leaderboard.executor import Site
from optbench_llm.leaderboard.measure import measure
from optbench_llm.leaderboard.plan import Part, Plan
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.store import Store

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """A plan within its budget, where its results go, what its trials cost, and what was cut."""

    plan: Plan
    store: Path
    costs: Costs | None
    words: tuple[str, ...]


def default_store(recipe: Recipe, uncut: Recipe, part: Part | None = None) -> Path:
    """Where a recipe's results go; those of shorter runs than it asks for are not to mix with.

    Each part has a store of its own: several may run at once.
    """
    steps = recipe.training.max_steps
    shorter = "" if steps == uncut.training.max_steps else f"-{steps}steps"
    of_it = "" if part is None else f"-part-{part.number}-of-{part.of}"
    return Path("runs") / f"{recipe.name}{shorter}{of_it}"


def forecast(
    plan: Plan,
    wanted: Mapping[str, OptimizerEntry],
    results: Collection[TrialResult],
    site: Site,
    tell: Tell,
) -> Costs:
    """The costs of the wanted kinds of rows: from stored trials, and the rest measured.

    Raises:
        ValueError: workers cannot start, or no row can be measured.
    """
    stored = stored_costs(plan.recipe, results, site.threads(plan.recipe.processes_per_trial))
    unknown = {kind: entry for kind, entry in wanted.items() if kind not in stored}
    measurement = measure(plan, unknown, site, tell) if unknown else None
    ran = max((result.record.steps for result in results), default=0)
    steps = plan.recipe.training.max_steps or (measurement.steps if measurement else ran)
    return all_costs(wanted, stored, measurement, steps)


def within_budget(plan: Plan, budget: str, store: Path | None, site: Site, tell: Tell) -> Fitted:
    """Cut ``plan`` to what ends within ``budget``, such as ``30m``, from now.

    Shorter runs have a store of their own. Where ``store`` is given and holds runs of one length,
    no others are thought of.

    Raises:
        ValueError: no budget of that form, a store that cannot be used, or a budget that is too
            small for any fair board.
    """
    budget_s = budget_seconds(budget)
    uncut = plan.recipe
    stores = _stores(plan, store)

    def left(recipe: Recipe) -> list[RowLeft] | None:
        there = stores.get(recipe.training.max_steps)
        if there is None:
            return None
        its_plan = Plan(recipe, plan.inputs)
        return rows_left(its_plan, Agenda(its_plan, there.by_id))

    first = next(recipe for recipe in lengths(uncut) if recipe.training.max_steps in stores)
    whole = left(first)
    if not any(row.steps for row in whole or ()):
        its_store = stores[first.training.max_steps].path
        return Fitted(Plan(first, plan.inputs), its_store, None, ())
    results = [result for there in stores.values() for result in there.results]
    costs = forecast(plan, kinds(uncut.optimizers), results, site, tell)
    fits = cut(uncut, costs, site.workers, budget_s, left)
    its_store = stores[fits.recipe.training.max_steps].path
    return Fitted(Plan(fits.recipe, plan.inputs), its_store, costs, fits.words)


def _stores(plan: Plan, given: Path | None) -> dict[int | None, Store]:
    """What there is of each length of runs; of a given store that holds some, that length alone."""
    candidates = {recipe.training.max_steps: recipe for recipe in lengths(plan.recipe)}
    if given is not None and (given / "store.json").exists():
        held = Store.read(given)
        for steps, recipe in candidates.items():
            if not replace(plan, recipe=recipe).identity.differences(held.identity):
                return {steps: held}
        return {plan.recipe.training.max_steps: _of(plan, plan.recipe, given)}
    return {
        steps: _of(plan, recipe, given or default_store(recipe, plan.recipe))
        for steps, recipe in candidates.items()
    }


def _of(plan: Plan, recipe: Recipe, path: Path) -> Store:
    return Store.read(path, replace(plan, recipe=recipe).identity)
