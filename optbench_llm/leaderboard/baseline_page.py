"""What a tuned board knows of its baseline: its noise, its lr curve, and its gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.tuned_boards import TunedBoard, shipped_boards


@dataclass(frozen=True)
class Baseline:
    """The baseline's search and seeds, and the untouched model's loss, as far as they are known."""

    name: str
    source: str
    curve: dict[float, float]
    test_losses: tuple[float, ...]
    untouched: float | None


def baseline_lines(plan: Plan, agenda: Agenda, store: Store) -> list[str]:
    """Three lines of the baseline by this store, else by the board that ships; else none."""
    found = _of_store(plan, agenda, store) or _of_shipped(plan.recipe)
    if found is None:
        return []
    losses, name = found.test_losses, found.name
    lines = []
    if len(losses) > 1:
        noise = f"{stdev(losses):.4f} (standard deviation of {len(losses)})"
        lines.append(f"{name}'s test loss {fmean(losses):.4f}, noise between seeds {noise}")
    curve = ", ".join(f"{lr:.3g}: {loss:.3f}" for lr, loss in sorted(found.curve.items()))
    lines.append(f"{name}'s lr curve (lr: validation loss) {curve}")
    if losses and found.untouched is not None:
        gain = found.untouched - fmean(losses)
        lines.append(
            f"{name}'s gain over the untouched model {gain:.4f}, from {found.untouched:.4f}"
        )
    return [f"{line}; {found.source}" if number == 0 else line for number, line in enumerate(lines)]


def _of_store(plan: Plan, agenda: Agenda, store: Store) -> Baseline | None:
    entry = plan.baseline_row()
    if entry is None:
        return None
    row = next(row for row in agenda.rows if row.entry == entry and not row.is_a_a)
    searched = [(trial.lr, store.get(trial)) for trial in row.search]
    curve = {
        lr: result.validation_loss
        for lr, result in searched
        if result and math.isfinite(result.validation_loss)
    }
    if not curve:
        return None
    records = [result.record for trial in row.seeds if (result := store.get(trial))]
    losses = tuple(r.test_loss for r in records if r.status == "done" and r.test_loss is not None)
    untouched = store.untouched.test_loss if store.untouched else None
    return Baseline(entry.spec, "of this store", curve, losses, untouched)


def _of_shipped(recipe: Recipe) -> Baseline | None:
    if recipe.its_track != "tuned":
        return None
    boards, _ = shipped_boards()
    for board in boards:
        row = board.row(recipe.baseline) if _is_of(recipe, board) else None
        if row is not None and row.curve:
            return Baseline(
                recipe.baseline, f"by {board.path}", row.curve, row.test_losses, board.untouched
            )
    return None


def _is_of(recipe: Recipe, board: TunedBoard) -> bool:
    return (board.recipe, board.model, board.data, board.steps) == (
        recipe.name,
        recipe.model,
        recipe.data.source,
        recipe.training.max_steps,
    )
