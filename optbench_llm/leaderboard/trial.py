"""A trial: one spec, one learning rate, one seed; named by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import optbench_llm
from optbench_llm.leaderboard.optimizer_settings import check_settings
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe


def canonical_hash(value: Any, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Inputs:
    """What all trials of one leaderboard start from, by content: a moved folder stays the same."""

    model_fingerprint: str
    data_fingerprint: str
    package_version: str = optbench_llm.__version__


@dataclass(frozen=True)
class TrialSpec:
    """All that decides the result of one training run, and nothing else."""

    spec: str
    hyperparameters: dict[str, Any]
    lr: float
    seed: int
    training: dict[str, Any]
    inputs: Inputs

    @property
    def settings(self) -> dict[str, Any]:
        """All that the optimizer is given: its arguments, lr and weight decay."""
        decay = self.training["weight_decay"]
        shared = {} if decay is None else {"weight_decay": decay}
        return {**self.hyperparameters, **shared, "lr": self.lr}

    @property
    def id(self) -> str:
        """Short hash of every field."""
        return canonical_hash(self.to_dict(), 12)

    @property
    def folder(self) -> str:
        """Name of this trial's folder in a store: readable, and unique by its id."""
        return f"{re.sub(r'[^A-Za-z0-9.+@_-]+', '-', self.spec)}-{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def plan_trials(recipe: Recipe, inputs: Inputs) -> list[TrialSpec]:
    """The recipe's trials, in its order: every optimizer with the first seed, then the next.

    Raises:
        ValueError: an optimizer does not take what the recipe sets for it.
    """
    trials = [
        TrialSpec(
            spec=entry.spec,
            hyperparameters=dict(entry.args),
            lr=recipe.lr_of(entry),
            seed=seed,
            training=_training(recipe, entry),
            inputs=inputs,
        )
        for seed in recipe.seeds
        for entry in recipe.optimizers
    ]
    for trial in trials[: len(recipe.optimizers)]:
        try:
            check_settings(trial.spec, trial.settings)
        except ValueError as error:
            raise ValueError(f"recipe {recipe.name}: {error}") from error
    return trials


def _training(recipe: Recipe, entry: OptimizerEntry) -> dict[str, Any]:
    return {
        **recipe.training.model_dump(mode="json"),
        **recipe.launch,
        "schedule": recipe.schedule_of(entry),
        "weight_decay": recipe.weight_decay_of(entry),
    }
