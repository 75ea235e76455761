"""The record of one run: all that a table row needs, as plain values. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import ConfigDict, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from optbench_llm.strict_json import finite_only

RunStatus = Literal["done", "diverged", "oom", "error", "timeout", "interrupted"]


@dataclass(frozen=True)
class Curves:
    """What a run has many values of. None stands for a loss that is not finite.

    - ``losses``: training loss of each optimizer step, over the whole run, resumed or not.
    - ``step_passes``: forward and backward passes of each step over as much data as its batch; None
      where each took one.
    - ``test_losses``: mean loss over the trained tokens of each block of the test split, to six
      digits, in the split's order, ``test_tokens`` how many these are; None where the split was not
      evaluated, or the model's loss cannot be told block by block.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    losses: Sequence[StrictFloat | None] = field(default_factory=list)
    step_passes: list[StrictFloat] | None = None
    test_losses: Sequence[StrictFloat | None] | None = None
    test_tokens: list[StrictInt] | None = None


@dataclass(frozen=True)
class RunRecord:
    """What a run did and cost; None where it did not come to measuring.

    Times are in the unit of their name, memory is in bytes.

    - ``train_loss``: mean of the curve ``losses``.
    - ``eval_loss``, ``initial_eval_loss``: mean over all trained tokens of the validation split, at
      the end and before the first step; ``test_loss``: of the test split, at the end.
    - ``tokens``: positions that the loss was computed at; padding and masked prompts are none.
    - ``tokens_per_s``: over the training steps; compilation, evaluation and saving are left out.
    - ``optimizer_step_ms``: median of the optimizer's own steps, the first left out.
    - ``extra_passes``: passes over the batch beyond the first, per step.
    - ``state_bytes_per_param``: per trainable parameter.
    - ``batches_hash``: chained over the token ids trained on, so equal for equal batches in equal
      order; of the first process where there are several.
    - ``hyperparameters``: the effective ones of each parameter group.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    status: RunStatus
    reason: StrictStr | None
    optimizer: StrictStr
    lr: StrictFloat
    seed: StrictInt
    steps: StrictInt
    train_loss: StrictFloat | None = None
    first_loss: StrictFloat | None = None
    last_loss: StrictFloat | None = None
    eval_loss: StrictFloat | None = None
    initial_eval_loss: StrictFloat | None = None
    test_loss: StrictFloat | None = None
    tokens: StrictInt | None = None
    tokens_per_s: StrictFloat | None = None
    optimizer_step_ms: StrictFloat | None = None
    first_step_ms: StrictFloat | None = None
    compile_s: StrictFloat | None = None
    extra_passes: StrictFloat | None = None
    state_bytes: StrictInt | None = None
    state_bytes_per_param: StrictFloat | None = None
    peak_mem_bytes: StrictInt | None = None
    train_wall_s: StrictFloat | None = None
    eval_wall_s: StrictFloat | None = None
    batches_hash: StrictStr | None = None
    hyperparameters: list[dict[str, Any]] | None = None
    engine: StrictStr | None = None
    parameters: StrictInt | None = None
    curves: Curves = field(default_factory=Curves)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that strict JSON can hold: None stands for NaN and infinities."""
        return finite_only(asdict(self))

    @classmethod
    def from_dict(cls, values: Any) -> RunRecord:
        """The record that :meth:`to_dict` gave these values of.

        Raises:
            ValueError: an unknown key, one of the first six missing, or a value of another type;
                names each key.
        """
        try:
            return _reader().validate_python(values)
        except ValidationError as error:
            faults = "; ".join(_fault(detail) for detail in error.errors())
            raise ValueError(f"no record of a run: {faults}") from None


@cache
def _reader() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)


def _fault(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "the record"
    match detail["type"]:
        case "unexpected_keyword_argument":
            return f"{key}: unknown key"
        case "missing":
            return f"{key}: this key is missing"
    message = detail["msg"].replace("Input should be", "expected")
    return f"{key}: {message[0].lower()}{message[1:]}, got {detail['input']!r:.80}"
