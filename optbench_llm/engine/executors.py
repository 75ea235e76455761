"""The three that run a phase of a rule: eagerly, as inductor's code, as Triton's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from optbench_llm.engine.bound import Work


class Executor(Protocol):
    """Runs phases of a rule over many units; which one does is the business of their device."""

    @property
    def compile_s(self) -> float:
        """Seconds that were waited for compilations."""
        ...

    def prepare(self, works: Sequence[Work]) -> None:
        """Make what the phases of these works need; called before the first of them."""

    def run(
        self, phase: str, works: Sequence[Work], sums: Sequence[Tensor | None] | None = None
    ) -> list[Any]:
        """Run one phase of every unit; what ``measure`` returns for each, in order."""
        ...


def executor_of(engine: str) -> Executor:
    """A new executor of an engine: ``eager``, ``compiled`` or ``triton``, which is imported now."""
    if engine == "triton":
        from optbench_llm.engine.triton.executor import TritonPhases

        return TritonPhases()
    if engine == "compiled":
        from optbench_llm.engine.compiled import CompiledPhases

        return CompiledPhases()
    from optbench_llm.engine.pieces import EagerPhases

    return EagerPhases()
