"""What all trials of a store share; without it, two results must not stand in one ranking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.recipe import Recipe, TrainingSettings
from optbench_llm.leaderboard.trial import Inputs


@dataclass(frozen=True)
class Identity:
    """Model and data by content, and how every trial is trained.

    With several processes a trial draws other dropout masks, and sums are rounded otherwise.
    """

    inputs: Inputs
    training: TrainingSettings
    processes_per_trial: int = 1

    def differences(self, there: Identity) -> list[str]:
        """``key: value there, value here`` for everything in which ``there`` differs."""
        return [
            f"{key}: {_short(theirs)} there, {_short(ours)} here"
            for (key, theirs), (_, ours) in zip(there._flat(), self._flat(), strict=True)
            if theirs != ours
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.inputs.model_fingerprint,
            "data": self.inputs.data_fingerprint,
            "training": self.training.model_dump(mode="json"),
            "processes_per_trial": self.processes_per_trial,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Identity:
        """The identity that :meth:`to_dict` gave these values of.

        Raises:
            ValueError: a key is missing, unknown, or has a value of another type.
        """
        known = {"model", "data", "training", "processes_per_trial"}
        if values.keys() != known:
            raise ValueError(f"expected the keys {', '.join(sorted(known))}")
        model, data, processes = values["model"], values["data"], values["processes_per_trial"]
        if not isinstance(model, str) or not isinstance(data, str) or type(processes) is not int:
            raise ValueError("expected two hashes and a count of processes")
        try:
            training = TrainingSettings.model_validate(values["training"])
        except ValidationError as error:
            raise ValueError(first_fault(error, "training")) from None
        return cls(Inputs(model, data), training, processes)

    def _flat(self) -> list[tuple[str, Any]]:
        values = self.to_dict()
        training = values.pop("training")
        return [*values.items(), *((f"training.{key}", value) for key, value in training.items())]


def identity(recipe: Recipe, inputs: Inputs) -> Identity:
    """The identity of the store that a recipe's trials go to."""
    return Identity(inputs, recipe.training, recipe.processes_per_trial)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}..."
