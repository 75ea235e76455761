"""What a reader must know to read a board: before the table, and under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optbench_llm.leaderboard.columns import Column
from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.recipe import FEWEST_SEEDS, Recipe
from optbench_llm.leaderboard.rows import Row

if TYPE_CHECKING:
    from optbench_llm.leaderboard.table import Board

_PUBLISHED = (
    "Published: train loss of GPT-2 on Alpaca in the table that LMFlow published in 2024, one run "
    "each at one lr for all."
)
_PUBLISHED_ELSEWHERE = (
    "Another model and other data: read its order, never compare its numbers with this table's."
)
_PUBLISHED_HERE = (
    "The same model and data as here, other software and hardware: compare order and rough bands, "
    "not digits."
)
_PUBLISHED_MODELS = ("gpt2", "openai-community/gpt2")
_PUBLISHED_DATA = "tatsu-lab/alpaca"


def headline(recipe: Recipe) -> str:
    """What kind of comparison it is, and what it cannot tell."""
    seeds = len(recipe.all_seeds)
    track = recipe.track_in_words
    if recipe.its_track == "tuned":
        return f"Tuned: {track}; test loss of {seeds} fresh seed{'s' if seeds > 1 else ''}."
    if recipe.its_track == "reference":
        told = "read its order and rough bands, not which optimizer is best"
        return f"{_seeds(seeds)}, {track}: {told}."
    if seeds == 1:
        return f"A demonstration: one seed, {track}. It cannot tell which optimizer is best."
    return f"{_seeds(seeds)}, {track}: what a person gets who tunes nothing."


def warnings(board: Board) -> list[str]:
    """What puts the board as a whole, or some of its rows, in doubt."""
    told: list[str] = []
    aa = board.aa
    if aa is not None and aa.differs:
        told.append(
            f"DO NOT TRUST THIS BOARD: {aa.rows[1]} is the same optimizer as {aa.rows[0]}, tuned "
            f"from another lr, and differs from it by {aa.difference:+.4f} (p = {aa.p:.2g}). "
            "What tells them apart may tell others apart as well."
        )
    if board.other_data:
        told.append(
            f"Trained on other batches than the other rows, so nothing is claimed of them: "
            f"{', '.join(board.other_data)}."
        )
    return told


def notes(board: Board, shown: Sequence[Column]) -> list[str]:
    """What stands under the table: rows that are not done, and `explanations`."""
    not_done = [f"{row.label}: {row.status}: {row.reason}" for row in board.rows if not row.done]
    return [*not_done, *explanations(board, shown)]


def explanations(board: Board, shown: Sequence[Column]) -> list[str]:
    """What the table rests on, with a sentence on each of the columns that are shown."""
    recipe, rows = board.recipe, board.rows
    keys = {column.key for column in shown}
    metric = recipe.ranked_by.replace("_", " ")
    told = [f"Ranked by {metric}, lower is better."]
    told += _claims(board)
    told += [column.note for column in shown if column.note]
    told += _exceptions(recipe, rows)
    told += _untouched(board)
    if "published_loss" in keys:
        told.append(f"† {_PUBLISHED} {published_compares(recipe)}")
    if board.measured_elsewhere:
        told.append(
            f"{board.measured_elsewhere} of {len(rows)} rows were measured on another machine or "
            "device, with other package versions or another number of threads: compare their speed "
            "and memory with care; losses may differ in the last digits as well."
        )
    if recipe.processes_per_trial > 1:
        told.append(
            f"Each trial ran on {recipe.processes_per_trial} processes; peak memory is that of one "
            "of them."
        )
    if board.not_begun:
        told.append(f"Not begun, so no rows: {', '.join(board.not_begun)}.")
    told.append(_machine(board.environment))
    return told


def _claims(board: Board) -> list[str]:
    """What the statistics rest on, and why there are none."""
    recipe = board.recipe
    seeds = len(recipe.all_seeds)
    if recipe.its_track != "tuned" and seeds == 1:
        return []
    told: list[str] = []
    if seeds < FEWEST_SEEDS:
        told.append(
            f"{_seeds(seeds)}, fewer than {FEWEST_SEEDS}: "
            + (
                "nothing can differ."
                if seeds == 1
                else "intervals are wide, and little can differ."
            )
        )
    if board.baseline is None:
        told.append(
            f"{recipe.baseline}, the baseline, is not on this board: add it to the recipe's "
            "optimizers to see differences to it."
        )
    elif board.baseline not in board.took_part and seeds > 1:
        told.append(f"{board.baseline}, the baseline, is not done: there are no differences to it.")
    if recipe.its_track == "tuned" and recipe.baseline_budgets and not recipe.training.max_steps:
        told.append(
            f"{recipe.baseline} ran at one length only: baseline_budgets need max_steps in place of"
            " num_train_epochs."
        )
    if board.noise_between_seeds is not None:
        told.append(
            f"Noise between seeds: {board.noise_between_seeds:.4f} (standard deviation of a row's "
            "loss, what seeds share left out)."
        )
    if board.aa is not None and not board.aa.differs:
        low, high = board.aa.difference_interval
        told.append(
            f"A/A: {board.aa.rows[0]} and {board.aa.rows[1]}, one optimizer tuned from two lrs, are"
            f" not told apart, as it must be ({board.aa.difference:+.4f} ±{(high - low) / 2:.4f})."
        )
    return told


def _exceptions(recipe: Recipe, rows: Sequence[Row]) -> list[str]:
    """In what some rows were not treated as all others."""
    told: list[str] = []
    schedule = recipe.training.schedule
    other = [_schedule(row) for row in rows if row.schedule != schedule]
    if other:
        told.append(f"Schedules other than {schedule}: {'; '.join(other)}.")
    unscaled = [row.label for row in rows if row.spec and row.spec.finds_step_size]
    if unscaled and recipe.lr_scale != 1:
        told.append(f"At the declared lr unscaled, of its own step size: {', '.join(unscaled)}.")
    beyond = [_with_passes(row) for row in rows if row.spec and row.spec.reads_more_data]
    if beyond:
        told.append(
            "Not at equal data, since steps use gradients of training records beyond their own "
            f"batches: {', '.join(beyond)}."
        )
    decay = recipe.training.weight_decay
    if decay:
        own = [f"{r.label} {r.weight_decay:g}" for r in rows if r.weight_decay not in (None, decay)]
        none = [row.label for row in rows if row.weight_decay is None]
        text = f"Weight decay {decay:g} for all"
        text += f", but its own: {', '.join(own)}" if own else ""
        text += f"{';' if own else ','} but none: {', '.join(none)}" if none else ""
        told.append(f"{text}.")
    return told


def _untouched(board: Board) -> list[str]:
    if board.untouched is None:
        return []
    losses = {"eval loss": board.untouched.eval_loss, "test loss": board.untouched.test_loss}
    told = [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
    return [f"The untouched model: {', '.join(told)}."] if told else []


def _with_passes(row: Row) -> str:
    passes = row.costs.passes_per_step
    return row.label if passes is None else f"{row.label} ({passes:.3g} passes a step)"


def _schedule(row: Row) -> str:
    demanded = row.schedule == "constant" and row.spec and row.spec.demands_constant_lr
    return f"{row.label} {row.schedule}{', as the method demands' if demanded else ''}"


def published_compares(recipe: Recipe) -> str:
    """What the published losses can be compared with."""
    same = recipe.model in _PUBLISHED_MODELS and recipe.data.source == _PUBLISHED_DATA
    return _PUBLISHED_HERE if same else _PUBLISHED_ELSEWHERE


def _machine(environment: Environment) -> str:
    versions = environment.versions
    names = ("optbench_llm", "torch", "transformers")
    packages = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    where = f"{environment.processor}, {environment.cores} cores"
    device = environment.device
    return f"{where}{f', {device}' if device and device != 'cpu' else ''}; {packages}."


def _seeds(count: int) -> str:
    return "One seed" if count == 1 else f"{count} seeds"
