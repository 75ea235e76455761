"""A trial: one spec, one learning rate, one seed; named by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import optbench_llm
from optbench_llm.leaderboard.recipe import Recipe


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
    """The recipe's trials, in its order: every optimizer with the first seed, then the next."""
    shared = recipe.training.model_dump(mode="json")
    return [
        TrialSpec(
            spec=entry.spec,
            hyperparameters=dict(entry.args),
            lr=recipe.lr_of(entry),
            seed=seed,
            training={**shared, "schedule": recipe.schedule_of(entry)},
            inputs=inputs,
        )
        for seed in recipe.seeds
        for entry in recipe.optimizers
    ]
