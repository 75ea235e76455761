"""What rows are called: by their specs, and by as much more as it takes to tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optbench_llm.leaderboard.plan import RowTrials, baseline_place
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe


def labels(recipe: Recipe, rows: Sequence[RowTrials]) -> list[str]:
    """One for each row; the baseline's second row is called after the first, and A/A."""
    entries = [row.entry for row in rows if not row.is_a_a]
    own = _labels(recipe, entries)
    first = baseline_place(recipe, entries)
    twin = f"{recipe.baseline if first is None else own[first]} A/A"
    names = iter(own)
    return [twin if row.is_a_a else next(names) for row in rows]


def _labels(recipe: Recipe, entries: Sequence[OptimizerEntry]) -> list[str]:
    described = [
        (_arguments(entry), f"lr={recipe.lr_of(entry):g}", recipe.schedule_of(entry))
        for entry in entries
    ]
    labels = [entry.spec for entry in entries]
    for words in zip(*described, strict=True):
        count = Counter(labels)
        variants = {(label, word) for label, word in zip(labels, words, strict=True)}
        kinds = Counter(label for label, _ in variants)
        labels = [
            f"{label} {word}".rstrip() if count[label] > 1 and kinds[label] > 1 else label
            for label, word in zip(labels, words, strict=True)
        ]
    return labels


def _arguments(entry: OptimizerEntry) -> str:
    return " ".join(f"{key}={value}" for key, value in entry.args.items())
