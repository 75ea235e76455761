"""The rows of a board as typed records; `make_rows` makes them, `table` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from optbench_llm.catalog import Spec, parse_spec
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.run_record import RunStatus

Interval = tuple[float, float]
Edge = Literal["lower", "upper"]


@dataclass(frozen=True)
class SeedRun:
    """One of the runs that a row is reported with."""

    seed: int
    test_loss: float | None
    train_loss: float | None
    eval_loss: float | None
    status: RunStatus
    trial: str

    def loss(self, name: str) -> float | None:
        """``test_loss``, ``train_loss`` or ``eval_loss``."""
        return getattr(self, name)


@dataclass(frozen=True)
class SearchRun:
    """One trial of the search for a row's lr, of one seed."""

    lr: float
    validation_loss: float | None
    test_loss: float | None
    status: RunStatus
    trial: str


@dataclass(frozen=True)
class Costs:
    """What a trial of the row takes: medians over its trials, in the unit of each name.

    ``passes_per_step`` are forward and backward passes over as much data as a batch.
    """

    steps: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    optimizer_step_ms: float | None = None
    first_step_ms: float | None = None
    compile_s: float | None = None
    passes_per_step: float | None = None
    extra_passes: float | None = None
    state_bytes: int | None = None
    state_bytes_per_param: float | None = None
    peak_mem_bytes: int | None = None
    train_wall_s: float | None = None
    eval_wall_s: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class AtEqualCost:
    """Mean train loss over the first part of the runs that every row could pay for.

    ``loss_at_equal_passes``: as many forward and backward passes as the run has steps;
    ``loss_at_equal_time``: as many seconds as the fastest row takes. None where that pays for no
    step.
    """

    loss_at_equal_passes: float | None = None
    loss_at_equal_time: float | None = None


@dataclass(frozen=True)
class Tuning:
    """What the search for the row's lr found; empty outside the tuned track.

    - ``lr_margin``: the loss that the search's resolution may hide.
    - ``edges``: at which ends of the tried lrs the best one lies, so that a better may lie beyond.
    - ``loss_at_declared_lr``: test loss of the search's trial there, which is one seed.
    - ``sensitivity``: the mean validation loss over lrs within a decade of the best, less the best.
    - ``lr_tolerance``: decades of lr within 5 % of the baseline's gain.
    - ``with_tries``: by "1", "3" and "5", the expected test loss of who tries so many of the coarse
      lrs and keeps the best on validation.

    A failed trial counts as the untouched model in the last three.
    """

    declared_lr: float | None = None
    lr_margin: float | None = None
    edges: tuple[Edge, ...] = ()
    loss_at_declared_lr: float | None = None
    sensitivity: float | None = None
    lr_tolerance: float | None = None
    with_tries: dict[str, float | None] | None = None
    search: tuple[SearchRun, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the statistics of the whole board say of a row; None where they say nothing.

    ``difference`` is that of the loss which ranks, the row's less the baseline's, and ``differs``
    whether more than chance and the search may account for it: none up to ``claim_margin`` is
    claimed, however sure it is. ``test_loss_interval`` is over seeds
    on these test records, with ``_records`` over other records like these as well.
    ``equivalent_baseline_steps`` are those after which the baseline has this test loss.
    """

    test_loss_interval: Interval | None = None
    test_loss_interval_records: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    claim_margin: float | None = None
    p_adjusted: float | None = None
    differs: bool | None = None
    rank_interval: tuple[int, int] | None = None
    equivalent_baseline_steps: float | None = None
    equivalent_baseline_steps_bound: Literal["at most", "at least"] | None = None


@dataclass(frozen=True)
class Row:
    """One optimizer of the board: losses are means over its finished seeds.

    ``finished`` says how many these are, and of how many. ``lr`` is None while a search has not
    found one; ``seed``, ``trial`` and ``batches_hash`` are None where there are several seeds.
    ``weight_decay`` is what the optimizer got, None where it knows none. ``a_a`` marks the second
    row of the baseline, which must not differ from the first.
    """

    rank: int | None
    optimizer: str
    label: str
    status: RunStatus
    reason: str | None
    test_loss: float | None
    train_loss: float | None
    eval_loss: float | None
    published_loss: float | None
    lr: float | None
    seed: int | None
    finished: tuple[int, int]
    seeds: tuple[SeedRun, ...]
    schedule: str
    weight_decay: float | None
    arguments: dict[str, Any]
    hyperparameters: list[dict[str, Any]] | None
    initial_eval_loss: float | None
    first_loss: float | None
    last_loss: float | None
    engine: str | None
    rule_version: str
    batches_hash: str | None
    trial: str | None
    a_a: bool = False
    costs: Costs = field(default_factory=Costs)
    at_equal_cost: AtEqualCost = field(default_factory=AtEqualCost)
    tuning: Tuning = field(default_factory=Tuning)
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def done(self) -> bool:
        """Whether all its seeds are."""
        return self.status == "done"

    @property
    def spec(self) -> Spec | None:
        """What the catalog knows of it; None of a name that only another version has."""
        try:
            return parse_spec(self.optimizer)
        except ValueError:
            return None

    def loss(self, name: str) -> float | None:
        """``test_loss``, ``train_loss`` or ``eval_loss``."""
        return getattr(self, name)

    def seed_losses(self, name: str) -> list[float] | None:
        """That loss of every seed, in their order; None where one is not done or has none."""
        losses = [run.loss(name) for run in self.seeds if run.status == "done"]
        found = [loss for loss in losses if loss is not None]
        return found if len(found) == self.finished[1] else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, all on one level."""
        values = dict(vars(self))
        for part in _PARTS:
            values |= vars(values.pop(part))
        for runs in ("seeds", "search"):
            values[runs] = [dict(vars(run)) for run in values[runs]]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row that `to_dict` gave these values of, through JSON or not.

        Keys that only a later version knows are left out; what an earlier one did not write has
        its default.

        Raises:
            ValueError: a key without a default is missing, or has a value of another type; names
                the first.
        """
        own = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name, part in _PARTS.items():
            own[name] = {f.name: values[f.name] for f in fields(part) if f.name in values}
        try:
            return _reader().validate_python(own)
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None


_PARTS = {"costs": Costs, "at_equal_cost": AtEqualCost, "tuning": Tuning, "verdict": Verdict}


@cache
def _reader() -> TypeAdapter[Row]:
    return TypeAdapter(Row)
