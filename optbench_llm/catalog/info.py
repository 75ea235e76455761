"""What the catalog knows of one optimizer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule, Slot

MOMENTUM = "fixed lr + momentum"
ADAPTIVE = "adaptive lr + momentum"
ESTIMATED = "estimated lr + momentum"
ADAPTIVE_PLAIN = "adaptive lr + plain gradient"


@dataclass(frozen=True)
class OptimizerInfo:
    """One row of the catalog.

    ``rule`` is the dotted path of our own rule; a row with ``provider`` runs a foreign optimizer
    instead and states its ``settings`` (the hyperparameters in their usual names). ``schedule`` is
    ``constant`` where the method itself demands a constant learning rate. ``published_loss`` is the
    row's train loss in the published GPT-2-on-Alpaca table. ``variant_of`` names the row that this
    one departs from on purpose; ``unavailable`` says what this version lacks to run it.
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
    published_name: str | None = None
    published_loss: float | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    variant_of: str | None = None
    unavailable: str | None = None

    def rule_class(self) -> type[Rule]:
        """The rule itself. Raises ValueError for a row that a provider runs, or nothing yet."""
        if self.unavailable:
            raise ValueError(f"optimizer {self.name!r} {self.unavailable}")
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
    def scope(self) -> str:
        """What the rule must see to update one element: element, tensor, matrix or model."""
        return "element" if self.rule is None else self.rule_class().scope.value

    @property
    def program(self) -> str | None:
        """The program that makes its further gradients, if it needs any."""
        return None if self.rule is None else self.rule_class().program

    @property
    def slots(self) -> tuple[Slot, ...]:
        """State tensors of our rule; which of them exist may depend on shape and settings."""
        return () if self.rule is None else self.rule_class().slots

    @property
    def equations(self) -> str:
        """The update equations, from the rule's docstring."""
        if self.unavailable:
            return f"Not in this version: it {self.unavailable}."
        if self.rule is None:
            return f"Run by {self.provider}."
        return inspect.cleandoc(self.rule_class().__doc__ or "")
