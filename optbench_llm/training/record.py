"""The record of one run: all that a table row needs, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from optbench_llm.strict_json import finite_only

RunStatus = Literal["done", "diverged", "oom", "error", "timeout", "interrupted"]


@dataclass(frozen=True)
class RunRecord:
    """What a run did and cost. Times are in the unit of their name; memory is in bytes.

    - ``train_loss``: mean of ``losses``, one per optimizer step over the whole run, resumed or not.
    - ``eval_loss``, ``initial_eval_loss``: mean over all trained tokens of the validation split, at
      the end and before the first step.
    - ``tokens``: positions that the loss was computed at; padding and masked prompts are none.
    - ``tokens_per_s``: over the training steps; compilation, evaluation and saving are left out.
    - ``optimizer_step_ms``: median of the optimizer's own steps, the first left out.
    - ``step_passes``: forward and backward passes of each step over as much data as its batch, None
      where each took one; ``extra_passes``: those beyond the first, per step.
    - ``state_bytes_per_param``: per trainable parameter.
    - ``batches_hash``: chained over the token ids trained on, so equal for equal batches in equal
      order; of the first process where there are several.
    - ``hyperparameters``: the effective ones of each parameter group.
    """

    status: RunStatus
    reason: str | None
    optimizer: str
    train_loss: float | None
    first_loss: float | None
    last_loss: float | None
    losses: list[float]
    eval_loss: float | None
    initial_eval_loss: float | None
    lr: float
    steps: int
    tokens: int
    tokens_per_s: float | None
    optimizer_step_ms: float | None
    first_step_ms: float | None
    compile_s: float
    extra_passes: float
    step_passes: list[float] | None
    state_bytes: int
    state_bytes_per_param: float
    peak_mem_bytes: int
    train_wall_s: float
    eval_wall_s: float
    batches_hash: str
    hyperparameters: list[dict[str, Any]]
    engine: str
    seed: int
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that strict JSON can hold: None stands for NaN and infinities."""
        return finite_only(asdict(self))
