"""What a program is: work on further gradients, done before the optimizer steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from transformers import Trainer

    from optbench_llm.programs.replay import Replay


class Program(ABC):
    """Something that needs more than one gradient per step.

    A program holds no state of its own: what it learns it feeds to the optimizer, or keeps in its
    state, which is saved and restored.
    """

    name: ClassVar[str]
    #: Whether it needs the loss of a micro-batch to come out the same a second time.
    repeats_loss: ClassVar[bool] = True

    def check(self, trainer: Trainer, optimizer: Any) -> None:  # noqa: B027
        """Refuse, before training, what cannot be; raises ValueError that says what to use."""

    @abstractmethod
    def due(self, optimizer: Any, step: int) -> bool:
        """Whether the program runs before optimizer step ``step`` (from 1)."""

    @abstractmethod
    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Run; the gradients of the step are there, and what is there afterwards is stepped with.

        The weights are afterwards what they were.
        """


def setting(optimizer: Any, name: str) -> Any:
    """A hyperparameter of the whole optimizer: of the first group that has it, else its default."""
    groups = (group for group in optimizer.param_groups if name in group)
    return next(groups, optimizer.defaults)[name]
