"""The numbers of one step, as eager and compiled code take them."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.units import Unit
from optbench_llm.rules.rule import Rule


def settings_of(group: dict[str, Any]) -> Any:
    """What a parameter group holds, by name; a scheduler may have made lr a tensor."""
    values = {key: value for key, value in group.items() if key != "params"}
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
    return SimpleNamespace(**numbers)


def settings_of_unit(h: Any, unit: Unit) -> Any:
    """The settings of a group as the rule of one unit sees them."""
    return SimpleNamespace(**{**vars(h), "role": unit.role, "heads": unit.heads})


class Scalars:
    """Named numbers for eager code; for compiled code vectors that are refilled at every step.

    A Python number in compiled code would be compiled anew for every value.
    """

    def __init__(self) -> None:
        self._types: dict[Any, Any] = {}
        self._vectors: list[dict[torch.dtype, Tensor]] = []

    def named(self, rule: type[Rule], numbers: dict[str, float]) -> Any:
        """The numbers as a named tuple."""
        names = tuple(numbers)
        if (rule, names) not in self._types:
            self._types[rule, names] = namedtuple(f"{rule.__name__}Scalars", names)
        return self._types[rule, names](**numbers)

    def vectors(self, numbers: Any, position: int) -> dict[torch.dtype, Tensor]:
        """The numbers as a vector of each dtype, in the memory of this ``position``."""
        exact = torch.tensor(numbers, dtype=torch.float64)
        if position == len(self._vectors):
            self._vectors.append({})
        vectors = self._vectors[position]
        if not vectors or vectors[torch.float64].shape != exact.shape:
            vectors.update({torch.float64: exact, torch.float32: exact.float()})
        for vector in vectors.values():
            vector.copy_(exact)
        return vectors
