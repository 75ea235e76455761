"""Run a leaderboard: plan a recipe's trials, run what the store lacks, rank what it holds."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench_llm.data import data_fingerprint
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.executor import (
    Executor,
    Finished,
    Ready,
    Started,
    Stepped,
    failed_record,
)
from optbench_llm.leaderboard.local import LocalExecutor
from optbench_llm.leaderboard.progress import Display
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.rows import rank_rows
from optbench_llm.leaderboard.store import Store, identity
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial import Inputs, TrialSpec, plan_trials
from optbench_llm.models import model_fingerprint
from optbench_llm.stopping import signal_of

_UNTOUCHED = "untouched.json"
_TABLES = ("leaderboard.json", "leaderboard.csv", "leaderboard.md")
# Where these differ, so may speed, memory and the last digits of losses.
_MEASURED_WITH = ("versions", "processor", "device", "threads")


@dataclass(frozen=True)
class Plan:
    """The trials of a recipe, and which of them a store already answers."""

    recipe: Recipe
    inputs: Inputs
    trials: list[TrialSpec]

    @property
    def identity(self) -> dict[str, Any]:
        """What a store must have in common with this plan to take its trials."""
        return identity(self.recipe, self.inputs)

    def missing(self, store: Store) -> list[TrialSpec]:
        """Trials without a final result: never run, or failed in a way that may not come again."""
        found = ((trial, store.get(trial)) for trial in self.trials)
        return [trial for trial, result in found if result is None or not result.final]

    def tried_again(self, store: Store) -> list[str]:
        """``spec (status)`` of the missing trials that an earlier run has already tried."""
        found = ((trial, store.get(trial)) for trial in self.missing(store))
        return [f"{trial.spec} ({result.record['status']})" for trial, result in found if result]


@dataclass(frozen=True)
class Run:
    """What a call of `run_leaderboard` leaves: the board, and how far it came."""

    board: Board
    not_run: int
    any_done: bool
    stopped_by: signal.Signals | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it early."""
        return self.stopped_by is not None


def make_plan(recipe: Recipe) -> Plan:
    """Find out what the recipe's model and data are, by content, and list its trials.

    Raises:
        ValueError: model or data cannot be found, or an optimizer does not take what the recipe
            sets for it.
    """
    inputs = Inputs(model_fingerprint(recipe.model), data_fingerprint(recipe.data))
    return Plan(recipe, inputs, plan_trials(recipe, inputs))


def run_leaderboard(plan: Plan, store_path: Path, display: Display, workers: int = 1) -> Run:
    """Run what the store lacks of ``plan`` and write the tables beside the trials.

    Every finished trial is on the disk before the next result is looked at, and the tables with it.
    Ctrl-C, or any other KeyboardInterrupt, ends the running trials, which are stored as
    interrupted, and returns what there is.

    Raises:
        ValueError: the store cannot be used (see `Store.open`), its results come from another type
            of device, or the workers cannot start.
    """
    with Store.open(store_path, plan.identity) as store:
        missing = plan.missing(store)
        _announce(plan, store, missing, display)
        environment = {**describe_environment(), "workers": workers}
        session = _Session(plan, store, environment, display)
        stopped_by = None
        if missing:
            executor = LocalExecutor(
                setup=_setup(plan, store),
                workers=workers,
                processes=plan.recipe.processes_per_trial,
                log_folder=store.path,
                trial_timeout_s=plan.recipe.limits.trial_timeout_s,
            )
            try:
                session.run(executor, missing)
            except KeyboardInterrupt as interrupt:
                stopped_by = signal_of(interrupt)
                session.store_interrupted(stopped_by)
        board = session.write_tables()
        stored = [store.get(trial) for trial in plan.trials]
        any_done = any(result.record["status"] == "done" for result in stored if result)
        return Run(board, stored.count(None), any_done, stopped_by)


class _Session:
    """Listens to an executor and keeps the store up to date."""

    def __init__(
        self, plan: Plan, store: Store, environment: dict[str, Any], display: Display
    ) -> None:
        self._plan = plan
        self._store = store
        self._environment = environment
        self._display = display
        self._running: dict[int, tuple[TrialSpec, list[float]]] = {}
        self._unstored: Finished | None = None

    def run(self, executor: Executor, trials: Sequence[TrialSpec]) -> None:
        self._display.plan(trials, self._plan.recipe.training.max_steps)
        with closing(executor.run(trials)) as events:
            for event in events:
                if isinstance(event, Ready):
                    self._learn(event.facts)
                elif isinstance(event, Started):
                    self._running[event.worker] = (event.trial, [])
                elif isinstance(event, Stepped):
                    self._running[event.worker][1].append(event.loss)
                elif isinstance(event, Finished):
                    self._unstored = event
                    self._keep(event)
                    self.write_tables()
                self._display.show(event)

    def store_interrupted(self, stopped_by: signal.Signals) -> None:
        """Keep the running trials as rows that say how far they came."""
        if self._unstored is not None:
            self._keep(self._unstored)
        what = "Ctrl-C" if stopped_by == signal.SIGINT else stopped_by.name
        for trial, losses in self._running.values():
            reason = f"{what} after step {len(losses)}"
            record = failed_record(trial, "interrupted", reason, losses)
            self._store.put(trial, record, losses, self._environment)

    def write_tables(self) -> Board:
        """Rank what the store holds and write it in every form."""
        rows = rank_rows(self._store.results, self._plan.recipe.rank_by)
        here = self._measured_with()
        environment = {**here, **(self._store.read_json(_UNTOUCHED) or {})}
        environment["rows_measured_elsewhere"] = sum(
            any(result.environment.get(key) != here.get(key) for key in _MEASURED_WITH)
            for result in self._store.results
        )
        board = Board(self._plan.recipe, environment, rows)
        texts = (board.to_json(), board.to_csv(), board.to_markdown())
        for name, text in zip(_TABLES, texts, strict=True):
            self._store.write(name, text)
        return board

    def _keep(self, event: Finished) -> None:
        """Store a result; safe to repeat, should Ctrl-C come in the middle."""
        record = {**event.record, "wall_s": event.wall_s}
        self._store.put(event.trial, record, event.losses, self._environment)
        self._running.pop(event.worker, None)
        self._unstored = None

    def _measured_with(self) -> dict[str, Any]:
        """This run's environment; where nothing ran, the one that most stored results share."""
        stored = [result.environment for result in self._store.results]
        if "device" in self._environment or not stored:
            return self._environment
        return max(stored, key=stored.count)

    def _learn(self, facts: dict[str, Any]) -> None:
        self._refuse_other_device(facts["environment"]["device_type"])
        if "device" not in self._environment:
            self._display.say(facts["data"])
        self._environment = {**self._environment, **facts["environment"]}
        if facts["untouched_eval_loss"] is not None:
            loss = facts["untouched_eval_loss"]
            self._store.write_json(_UNTOUCHED, {"untouched_eval_loss": loss})
            self._display.say(f"untouched model: eval loss {loss:.4f}")

    def _refuse_other_device(self, here: str) -> None:
        for result in self._store.results:
            there = result.environment.get("device_type", here)
            if there != here:
                raise ValueError(
                    f"store {self._store.path}: holds results measured on {there}, and this run is "
                    f"on {here}: choose another folder with --store"
                )


def _setup(plan: Plan, store: Store) -> dict[str, Any]:
    """What a worker must know before its first trial."""
    recipe, inputs = plan.recipe, plan.inputs
    return {
        "inputs": {"model": inputs.model_fingerprint, "data": inputs.data_fingerprint},
        "model": recipe.model,
        "data": recipe.data.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json"),
        "scratch": str(store.scratch_folder("workers").resolve()),
        "baseline": store.read_json(_UNTOUCHED) is None,
    }


def _announce(plan: Plan, store: Store, missing: Sequence[TrialSpec], display: Display) -> None:
    recipe = plan.recipe
    display.say(f"{recipe.name}: {recipe.model} on {recipe.data.source}, {recipe.track}")
    kept = len(plan.trials) - len(missing)
    display.say(f"{len(missing)} trials to run, {kept} already in {store.path}")
    again = plan.tried_again(store)
    if again:
        display.say(f"tried again: {', '.join(again)}")
