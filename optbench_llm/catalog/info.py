"""What the catalog knows of one optimizer."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule, Slot

MOMENTUM = "fixed lr + momentum"
ADAPTIVE = "adaptive lr + momentum"
ESTIMATED = "estimated lr + momentum"
ADAPTIVE_PLAIN = "adaptive lr + plain gradient"
#: What stands for a large weight where state is counted without a model.
LARGE_MATRIX = (1024, 1024)


@dataclass(frozen=True)
class OptimizerInfo:
    """One row of the catalog.

    ``rule`` is the dotted path of our own rule; a row with ``provider`` runs a foreign optimizer
    instead and states its ``settings`` (the hyperparameters in their usual names). ``schedule`` is
    ``constant`` where the method itself demands a constant learning rate. ``published_loss`` is the
    row's train loss in the published GPT-2-on-Alpaca table. ``variant_of`` names the row that this
    one departs from on purpose; ``finds_step_size`` that the lr only scales a step size which the
    method finds itself, so that one value suits all models.
    ``provider_state_bytes`` is, of a provider's row, the state of a large matrix, in bytes per
    element.
    """

    name: str
    title: str
    paper: str
    year: int
    category: str
    rule: str | None = None
    provider: str | None = None
    settings: Mapping[str, Any] | None = None
    url: str | None = None
    category_is_ours: bool = False
    schedule: Literal["any", "constant"] = "any"
    finds_step_size: bool = False
    published_name: str | None = None
    published_loss: float | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    variant_of: str | None = None
    provider_state_bytes: float | None = None

    def rule_class(self) -> type[Rule]:
        """The rule itself. Raises ValueError for a row that a provider runs."""
        if self.rule is None:
            raise ValueError(f"{self.name!r} is run by {self.provider}, it has no rule of ours")
        module, _, name = self.rule.partition(":")
        return getattr(importlib.import_module(f"optbench_llm.rules.{module}"), name)

    @property
    def defaults(self) -> dict[str, Any]:
        """Hyperparameters and their defaults; ``lr`` is the declared one."""
        return dict(self.settings if self.settings is not None else self.rule_class().settings())

    @property
    def lr(self) -> float:
        """The declared learning rate."""
        return self.defaults["lr"]

    @property
    def lr_grid(self) -> tuple[float, ...]:
        """Seven learning rates half a decade apart, to three digits, around the declared one."""
        others = {i: float(f"{self.lr * 10 ** (i / 2):.3g}") for i in (-3, -2, -1, 1, 2, 3)}
        return tuple(others.get(i, self.lr) for i in range(-3, 4))

    @property
    def scope(self) -> str:
        """What the rule must see to update one element: element, tensor, matrix or model."""
        return "element" if self.rule is None else self.rule_class().scope.value

    @property
    def program(self) -> str | None:
        """The programs that make its further gradients, joined by ``+``; None without."""
        return None if self.rule is None else "+".join(self.rule_class().programs) or None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """State tensors of our rule; which of them exist may depend on shape and settings."""
        return () if self.rule is None else self.rule_class().slots

    @property
    def state_bytes_per_param(self) -> float | None:
        """State of a large matrix in fp32, bytes per element; None where it is not known."""
        if self.provider:
            return self.provider_state_bytes
        return state_bytes_per_param(self.rule_class(), self.defaults)

    @property
    def equations(self) -> str:
        """The update equations, from the rule's docstring."""
        if self.rule is None:
            return f"Run by {self.provider}."
        return inspect.cleandoc(self.rule_class().__doc__ or "")


def state_bytes_per_param(rule: type[Rule], settings: Mapping[str, Any]) -> float:
    """State of a large square matrix in fp32, bytes per element, by the rule's slots."""
    h = SimpleNamespace(**settings, role="matrix", heads=0)
    total = sum(
        math.prod(slot.shape_for(LARGE_MATRIX)) * (2 if slot.storage == "bf16" else 4)
        for slot in rule.slots_for(LARGE_MATRIX, h)
    )
    return total / math.prod(LARGE_MATRIX) + 4 * len(rule.kept_by_program)
