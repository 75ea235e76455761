"""A trial: one spec, one learning rate, one seed; named by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from optbench_llm.leaderboard.optimizer_settings import rule_version
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe

#: Fields that say how a trial is run, not what is: its losses differ in the last bits at most.
_HOW = ("engine", "planned_steps")


def canonical_hash(value: Any, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Inputs:
    """What all trials of one store start from, by content: a moved folder stays the same."""

    model_fingerprint: str
    data_fingerprint: str


@dataclass(frozen=True)
class TrialSpec:
    """All that decides the result of one run beside what its whole store shares.

    A store's trials share model, data and training settings; ``schedule`` and ``weight_decay`` may
    be the optimizer's own, and ``max_steps`` another budget than the recipe's. ``rule_version`` is
    that of the optimizer's numbers, so that old results are not ranked with new ones.

    ``engine`` and ``planned_steps``, the steps of all trials of the row, for which code may be
    compiled once, say how it is run; they are no part of what a trial is.
    """

    spec: str
    hyperparameters: dict[str, Any]
    lr: float
    seed: int
    schedule: str
    weight_decay: float | None
    rule_version: str
    max_steps: int | None = None
    engine: str = field(default="auto", compare=False)
    planned_steps: int | None = field(default=None, compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """All that the optimizer is given: its arguments, lr and weight decay."""
        shared = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return {**self.hyperparameters, **shared, "lr": self.lr}

    @cached_property
    def id(self) -> str:
        """Short hash of every field that decides the result."""
        return canonical_hash(self.identity(), 12)

    @property
    def folder(self) -> str:
        """Name of this trial's folder in a store: readable, and unique by its id."""
        return f"{re.sub(r'[^A-Za-z0-9.+@_-]+', '-', self.spec)}-{self.id}"

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as plain values for JSON."""
        return {key: value for key, value in self.to_dict().items() if key not in _HOW}

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain values for JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def trial_of(
    recipe: Recipe,
    entry: OptimizerEntry,
    lr: float,
    seed: int,
    *,
    max_steps: int | None = None,
) -> TrialSpec:
    """One trial of a row of the recipe, at this lr and seed."""
    return TrialSpec(
        spec=entry.spec,
        hyperparameters=dict(entry.args),
        lr=lr,
        seed=seed,
        schedule=recipe.schedule_of(entry),
        weight_decay=recipe.weight_decay_of(entry),
        rule_version=rule_version(entry.spec),
        max_steps=max_steps,
    )
