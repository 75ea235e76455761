"""What a program is: work on a second gradient, done before the optimizer steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from optbench_llm.programs.replay import Replay


class Program(ABC):
    """Something that needs more than one gradient per step.

    A program holds no state of its own: what it learns it feeds to the optimizer, whose state is
    saved and restored.
    """

    name: ClassVar[str]

    @abstractmethod
    def due(self, optimizer: Any, step: int) -> bool:
        """Whether the program runs before optimizer step ``step`` (from 1)."""

    @abstractmethod
    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Run; gradients are empty on entry, and those of the step come back afterwards."""
