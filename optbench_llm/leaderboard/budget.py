"""Cut a board to a budget of time so that it stays fair: fewer rows, then shorter runs for all.

Seeds and learning rates are never cut: with fewer seeds no interval is worth its name, and a row
that was searched less would lose by that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from optbench_llm.leaderboard.estimate import Costs, RowLeft, duration
from optbench_llm.leaderboard.plan import baseline_place
from optbench_llm.leaderboard.recipe import Recipe, override

#: Runs that are shorter than this, or than twice their warm-up, tell nothing.
FEWEST_STEPS = 20
#: Lengths that runs are cut to, times powers of ten: a later call with costs measured a little
#: differently finds the same one, and goes on with its store.
_ROUND_LENGTHS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 75)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: What the least budget is told with, since costs are measured anew with every call.
_SPARE = 1.1

Left = Callable[[Recipe], Sequence[RowLeft] | None]


@dataclass(frozen=True)
class Cut:
    """The recipe that fits, how long its board takes, and what was cut, in words."""

    recipe: Recipe
    wall_s: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fit:
    """A board of some length: the places of the rows that it keeps, and how many rows these are."""

    recipe: Recipe
    kept: tuple[int, ...]
    rows: int
    wall_s: float


def budget_seconds(text: str) -> float:
    """The seconds of a budget such as ``90s``, ``30m`` or ``1.5h``.

    Raises:
        ValueError: no such budget, or none above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([smh])", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"--budget {text}: expected a number above 0 with its unit: 90s, 30m or 2h"
        )
    return seconds


def cut(recipe: Recipe, costs: Costs, workers: int, budget_s: float, left: Left) -> Cut:
    """The largest fair board that ends within ``budget_s`` seconds.

    ``left`` says what each row of a recipe still has to run, and None for a recipe that the given
    store is not for. Rows are dropped from the end of the recipe's order, but for the baseline,
    which with its twin judges all, at least one other, and those that are complete. Where that is
    not enough, all runs become shorter.

    Raises:
        ValueError: not even the smallest fair board fits; names the least budget that would do.
    """
    too_long: list[_Fit] = []
    for shorter in lengths(recipe):
        rows = left(shorter)
        if rows is None:
            continue
        fit = _fit(shorter, rows, costs, workers, budget_s)
        if fit.wall_s <= budget_s:
            kept = [shorter.optimizers[place].model_dump() for place in fit.kept]
            words = tuple(_words(recipe, fit))
            return Cut(override(shorter, {"optimizers": kept}), fit.wall_s, words)
        too_long.append(fit)
    assert too_long, "no recipe fits the store"
    least = min(too_long, key=lambda fit: fit.wall_s)
    steps = least.recipe.training.max_steps
    length = "" if steps is None else f" of {steps} steps"
    raise ValueError(
        f"--budget {budget_text(budget_s)}: the smallest fair board, {least.rows} rows{length}, "
        f"takes {duration(least.wall_s)} here; --budget {budget_text(least.wall_s * _SPARE)} would "
        "do"
    )


def lengths(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, and with ever shorter runs, warm-up in proportion; epochs stay as they are."""
    yield recipe
    steps, warmup = recipe.training.max_steps, recipe.training.warmup_steps
    if steps is None:
        return
    fewest = max(FEWEST_STEPS, 2 * warmup)
    decades = range(len(str(steps)), -2, -1)
    round_ones = (n * 10**d for d in decades for n in reversed(_ROUND_LENGTHS))
    shorter = [int(n) for n in round_ones if n == int(n) and fewest < n < steps]
    for count in [*shorter, *([fewest] if fewest < steps else [])]:
        changes = {"max_steps": count, "warmup_steps": round(warmup * count / steps)}
        yield override(recipe, {f"training.{key}": value for key, value in changes.items()})


def budget_text(seconds: float) -> str:
    """A budget as one types it, rounded up."""
    if seconds < 120 and seconds % 60:
        return f"{math.ceil(seconds)}s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


def _fit(
    recipe: Recipe, rows: Sequence[RowLeft], costs: Costs, workers: int, budget_s: float
) -> _Fit:
    """The board of this length with as many rows as fit, or with the fewest."""
    steps = recipe.training.max_steps
    costs = costs if steps is None else replace(costs, steps=steps)
    complete = set(range(len(recipe.optimizers))) - {row.place for row in rows if row.steps}
    always = _always(recipe) | complete
    kept = set(range(len(recipe.optimizers)))

    def wall_s() -> float:
        return costs.wall_s((row for row in rows if row.place in kept), workers)

    for place in sorted(kept - always, reverse=True):
        if wall_s() <= budget_s:
            break
        kept.remove(place)
    count = sum(row.place in kept for row in rows)
    return _Fit(recipe, tuple(sorted(kept)), count, wall_s())


def _always(recipe: Recipe) -> set[int]:
    """The places of the two rows that a board cannot do without: the baseline, and the first other.

    Where the recipe lists no baseline, the first two.
    """
    places = range(len(recipe.optimizers))
    first = baseline_place(recipe, recipe.optimizers) or 0
    return {first, *[place for place in places if place != first][:1]}


def _words(recipe: Recipe, fit: _Fit) -> Iterator[str]:
    left_out = [e.spec for place, e in enumerate(recipe.optimizers) if place not in fit.kept]
    if left_out:
        yield (
            f"left out for the budget: {', '.join(left_out)} "
            f"({len(left_out)} of {len(recipe.optimizers)} rows)"
        )
    before, after = recipe.training.max_steps, fit.recipe.training.max_steps
    if before != after:
        yield f"runs of {after} steps instead of {before}"
