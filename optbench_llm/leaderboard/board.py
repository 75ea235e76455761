"""Run a leaderboard: run what the store lacks of a recipe's trials, rank what it holds."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.environment import Environment, this_environment
from optbench_llm.leaderboard.estimate import rows_left
from optbench_llm.leaderboard.executor import (
    Executor,
    Finished,
    Ready,
    Site,
    Started,
    Stepped,
    failed_record,
)
from optbench_llm.leaderboard.local import LocalSite
from optbench_llm.leaderboard.make_rows import build_board
from optbench_llm.leaderboard.plan import Plan, RowTrials
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.progress import Display
from optbench_llm.leaderboard.standing import FILE as STATUS
from optbench_llm.leaderboard.standing import Standing, Watch
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.tracking import tracking_setup
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.stopping import signal_of
from optbench_llm.strict_json import finite_only

#: On the way, so much of the time at most goes into tables: those of a large board take seconds.
_TABLES_SHARE = 0.02
#: Seconds between two words on how far a run is, to its display and to others.
_STAND_EVERY_S, _STATUS_EVERY_S = 1.0, 2.0


@dataclass(frozen=True)
class Run:
    """What a call of `run_leaderboard` leaves: the board, and how many trials are still to run."""

    board: Board
    left: int
    any_done: bool
    stopped_by: signal.Signals | None = None


def run_leaderboard(
    plan: Plan,
    store_path: Path,
    display: Display,
    site: Site | None = None,
    tables_written: Callable[[], None] | None = None,
    report_to: Sequence[str] = (),
) -> Run:
    """Run what the store lacks of ``plan`` and write the tables beside the trials.

    Trials run at ``site``, without one in a worker of this machine, and report to the trackers
    ``report_to``. ``tables_written`` is called whenever they are, which is now and then on the way.

    Every finished trial is on the disk before the next result is looked at. Ctrl-C, or any other
    KeyboardInterrupt, ends the running trials, which are stored as interrupted, and returns what
    there is.

    Raises:
        ValueError: the store cannot be used (see `Store.open`), its results come from another type
            of device, or the workers cannot start.
    """
    site = site or LocalSite()
    tracking = tracking_setup(report_to, plan.recipe.name, store_path)
    with Store.open(store_path, plan.identity) as store:
        store.add_rows(plan.recipe.optimizers)
        agenda = Agenda(plan, store.by_id)
        missing = agenda.missing()
        _announce(plan, agenda, store.path, display)
        session = _Session(
            plan, store, agenda, this_environment(site.workers), display, tables_written
        )
        stopped_by = None
        if missing:
            scratch = store.scratch_folder("workers")
            executor = site.executor(
                worker_setup(plan, scratch, untouched=store.untouched is None, tracking=tracking),
                processes=plan.recipe.processes_per_trial,
                log_folder=store.path,
                trial_timeout_s=plan.recipe.limits.trial_timeout_s,
            )
            try:
                session.run(executor)
            except KeyboardInterrupt as interrupt:
                stopped_by = signal_of(interrupt)
                session.store_interrupted(stopped_by)
            except Exception as error:
                session.end(f"error: {error}")
                raise
        board = session.write_tables()
        session.end("done" if stopped_by is None else stopped_by.name)
        asked = [trial for row in agenda.rows for trial in row.trials]
        stored = [store.get(trial) for trial in asked]
        any_done = any(result.record.status == "done" for result in stored if result)
        return Run(board, agenda.planned() - agenda.ended(), any_done, stopped_by)


class _Session:
    """Listens to an executor and keeps the store up to date."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        agenda: Agenda,
        environment: Environment,
        display: Display,
        tables_written: Callable[[], None] | None = None,
    ) -> None:
        self._tables_written = tables_written
        self._plan = plan
        self._store = store
        self._agenda = agenda
        # Where trials run by default; each worker tells of its own machine.
        self._environment = environment
        self._environments: dict[int, Environment] = {}
        self._display = display
        self._running: dict[int, tuple[TrialSpec, list[float]]] = {}
        self._watch, self._began = Watch(), time.time()
        self._told = self._written = -math.inf
        self._unstored: Finished | None = None
        self._next_tables = 0.0
        self._is_status_lost = False
        self._left_out: set[str] = set()

    def run(self, executor: Executor) -> None:
        recipe, agenda = self._plan.recipe, self._agenda
        self._display.plan(agenda.planned() - agenda.ended(), recipe.training.max_steps)
        self._write_standing(self._standing())
        with closing(executor.run(agenda)) as events:
            for event in events:
                if isinstance(event, Ready):
                    self._learn(event)
                elif isinstance(event, Started):
                    self._running[event.worker] = (event.trial, [])
                elif isinstance(event, Stepped):
                    self._running[event.worker][1].append(event.loss)
                elif isinstance(event, Finished):
                    self._unstored = event
                    self._keep(event)
                    self._write_tables_now_and_then()
                self._watch.see(event)
                self._display.show(event)
                self._stand(at_once=isinstance(event, Finished))

    def store_interrupted(self, stopped_by: signal.Signals) -> None:
        """Keep the running trials as such that say how far they came."""
        if self._unstored is not None:
            self._keep(self._unstored)
        what = "Ctrl-C" if stopped_by == signal.SIGINT else stopped_by.name
        for worker, (trial, losses) in self._running.items():
            reason = f"{what} after step {len(losses)}"
            record = failed_record(trial, "interrupted", reason, losses)
            self._store.put(trial, record, 0.0, self._environment_of(worker))
            self._agenda.finished(trial)

    def end(self, over: str) -> None:
        """Say to whoever asks for the status that the run is over."""
        self._write_standing(self._standing(over))

    def write_tables(self) -> Board:
        """Rank what the store holds and write it in every form, for this track and as the latest.

        Rows that earlier runs asked for stand beside those of this one.
        """
        began = time.monotonic()
        plan, results = self._plan.with_rows(self._store.rows), self._store.by_id
        rows = list(self._rows(plan))
        environment = self._measured_with()
        board = build_board(plan.recipe, rows, results, environment, self._store.untouched)
        planned, ended = self._agenda.planned(), self._agenda.ended()
        board = replace(board, trials_left=planned - ended, trials_planned=planned)
        texts = {"json": board.to_json(), "csv": board.to_csv(), "md": board.to_markdown()}
        for suffix, text in texts.items():
            self._store.write(f"leaderboard.{suffix}", text)
            self._store.write(f"leaderboard-{plan.recipe.its_track}.{suffix}", text)
        if self._tables_written is not None:
            self._tables_written()
        now = time.monotonic()
        self._next_tables = now + (now - began) / _TABLES_SHARE
        return board

    def _stand(self, *, at_once: bool) -> None:
        """Tell now and then how far the run is."""
        now = time.monotonic()
        if now - self._told < _STAND_EVERY_S and not at_once:
            return
        self._told = now
        standing = self._standing()
        self._display.stand(standing)
        if now - self._written >= _STATUS_EVERY_S:
            self._written = now
            self._write_standing(standing)

    def _standing(self, over: str | None = None) -> Standing:
        agenda, watch = self._agenda, self._watch
        left = Counter(
            (row.entry.spec, steps) for row in rows_left(self._plan, agenda) for steps in row.steps
        )
        workers = max(1, min(self._environment.workers or 1, len(self._environments)))
        return Standing(
            recipe=self._plan.recipe.name,
            began=self._began,
            at=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            workers=workers,
            ended=agenda.ended(),
            planned=agenda.planned(),
            left_s=watch.left_s(left, workers),
            running=() if over else watch.running,
            by_status=watch.by_status,
            failures=watch.failures,
            over=over,
        )

    def _write_standing(self, standing: Standing) -> None:
        text = json.dumps(finite_only(standing.to_dict()), indent=1, allow_nan=False)
        try:
            self._store.write(STATUS, f"{text}\n")
        except ValueError as error:
            # A word to others is no result; once is enough for the one here.
            if not self._is_status_lost:
                self._display.say(f"the status is not written: {error}")
            self._is_status_lost = True

    def _rows(self, plan: Plan) -> Iterator[RowTrials]:
        for entry, is_a_a in plan.entries():
            try:
                yield plan.row(entry, self._store.by_id, self._agenda.again, is_a_a=is_a_a)
            except ValueError as error:
                # An earlier run's, whose library is gone.
                if entry.spec not in self._left_out:
                    self._display.say(f"{entry.spec} is left out of the table: {error}")
                self._left_out.add(entry.spec)

    def _write_tables_now_and_then(self) -> None:
        """After a trial, unless the last time was a moment ago."""
        if time.monotonic() >= self._next_tables:
            self.write_tables()

    def _keep(self, event: Finished) -> None:
        """Store a result; safe to repeat, should Ctrl-C come in the middle."""
        environment = self._environment_of(event.worker)
        self._store.put(event.trial, event.record, event.wall_s, environment)
        self._agenda.finished(event.trial)
        self._running.pop(event.worker, None)
        self._unstored = None

    def _measured_with(self) -> Environment:
        """This run's environment; where nothing ran, the one that most stored results share."""
        stored = [result.environment for result in self._store.results]
        if self._environment.device is not None or not stored:
            return self._environment
        return max(stored, key=stored.count)

    def _environment_of(self, worker: int) -> Environment:
        return self._environments.get(worker, self._environment)

    def _learn(self, event: Ready) -> None:
        facts = event.facts
        self._refuse_other_device(facts.device_type)
        if self._environment.device is None:
            self._display.say(facts.data)
        self._environments[event.worker] = self._environment = replace(
            self._environment,
            **facts.machine,
            device=facts.device,
            device_type=facts.device_type,
            threads=facts.threads,
            processes=facts.processes,
        )
        if facts.untouched_eval_loss is not None:
            untouched = Untouched(facts.untouched_eval_loss, facts.untouched_test_loss)
            self._store.put_untouched(untouched)
            self._display.say(f"untouched model: eval loss {untouched.eval_loss:.4f}")

    def _refuse_other_device(self, here: str) -> None:
        for result in self._store.results:
            there = result.environment.device_type or here
            if there != here:
                raise ValueError(
                    f"store {self._store.path}: holds results measured on {there}, and this run is "
                    f"on {here}: choose another folder with --store"
                )


def _announce(plan: Plan, agenda: Agenda, path: Path, display: Display) -> None:
    recipe = plan.recipe
    display.say(f"{recipe.name}: {recipe.model} on {recipe.data.source}, {recipe.track_in_words}")
    ended, planned = agenda.ended(), agenda.planned()
    display.say(f"{planned - ended} trials to run, {ended} already in {path}")
    again = agenda.tried_again()
    if again:
        display.say(f"tried again: {', '.join(again)}")
