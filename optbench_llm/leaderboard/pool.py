"""Run trials in warm workers, wherever these are: who gives them out, and what becomes of each."""

from __future__ import annotations

import math
import queue
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from optbench_llm.leaderboard.executor import (
    Event,
    Facts,
    Finished,
    Notice,
    Ready,
    Source,
    Started,
    Stepped,
    Tick,
    failed_record,
)
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.process import EXITED, cause_of_death, was_asked_to_end
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import RunRecord

JOB_ENDS_S = 1.0
#: A trial that loses so many machines is the likeliest cause of it; so is what a worker loads.
LOSSES = 3
#: So many times a worker is started that cannot start.
_STARTS = 2
#: Without any event, the listener is told so often that time passes.
_TICK_S = 5.0
#: The last event of a worker whose machine is gone.
LOST = "lost"


class Worker(Protocol):
    """A warm worker as its pool sees it.

    What it says comes as ``(worker, event)`` through the inbox that it was started with; its last
    event is `process.EXITED`, or `LOST`.
    """

    @property
    def number(self) -> int:
        """From 1; those of workers that are gone are used again."""
        ...

    @property
    def log(self) -> Path:
        """Where what it prints goes."""
        ...

    @property
    def began(self) -> float | None:
        """When it began to load, by the monotonic clock; None while it waits for a place."""
        ...

    def send(self, command: dict[str, Any]) -> None:
        """Send a command; one to a worker that is gone is lost, its last event says so."""
        ...

    def kill(self) -> None:
        """End it and whatever it started, and wait until what they held is free."""
        ...


def worker_setup(
    plan: Plan, scratch: Path, *, untouched: bool, tracking: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a worker must know before its first trial; it writes to ``scratch``.

    ``untouched`` asks for the losses of the model before any training, ``tracking`` says where
    trials report to (see `tracking_setup`).
    """
    recipe, inputs = plan.recipe, plan.inputs
    return {
        "inputs": {"model": inputs.model_fingerprint, "data": inputs.data_fingerprint},
        "model": recipe.model,
        "data": recipe.data.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json"),
        "scratch": str(scratch.resolve()),
        "untouched": untouched,
        "tracking": tracking,
    }


@dataclass
class _Running:
    """The trial that a worker is at, and what it has told of it so far."""

    trial: TrialSpec
    began: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)
    # Status and reason, as soon as the worker has told that the trial failed.
    failure: tuple[str, str] | None = None


@dataclass
class WorkerPool(ABC):
    """``workers``, of which one that fails is replaced; a subclass says where they are.

    A worker is ``processes`` processes that run each trial together. It loads data, model and code
    once and then runs trial after trial; where there is none for it now, it waits for what the
    trials of others bring. It is kept only while its trials succeed: what a failed trial left
    behind can touch no other. Once any worker has been ready, one that cannot start is tried once
    more; when none is left, neither are trials to hope for, and the rest become rows that say why.
    Before that, the last that cannot start ends the run: where ``on_one_machine``, the first, since
    all load the same. A trial whose worker is lost, with its machine, is handed back as
    interrupted, to be run again.
    """

    on_one_machine: ClassVar[bool] = True

    setup: dict[str, Any]
    workers: int
    log_folder: Path
    processes: int = 1
    trial_timeout_s: float | None = None
    # Loading includes the untouched model's evaluation.
    start_timeout_s: float = 3600.0
    _inbox: queue.Queue = field(default_factory=queue.Queue, init=False)
    _source: Source = field(init=False)
    # None where a worker starts, or waits for a trial.
    _running: dict[Worker, _Running | None] = field(default_factory=dict, init=False)
    _idle: set[Worker] = field(default_factory=set, init=False)
    _ever_ready: bool = field(default=False, init=False)
    _failed_starts: Counter[int] = field(default_factory=Counter, init=False)
    _lost_starts: Counter[int] = field(default_factory=Counter, init=False)
    _losses: Counter[str] = field(default_factory=Counter, init=False)

    @abstractmethod
    def _hire(self, number: int, setup: dict[str, Any], inbox: queue.Queue) -> Worker:
        """Start a worker with this set-up.

        Raises:
            ValueError: there is nowhere that it could run, or too little.
        """

    def run(self, source: Source) -> Generator[Event, None, None]:
        """Run what ``source`` gives; see `Executor.run`.

        Raises:
            ValueError: workers cannot start, with the reason.
        """
        self._source = source
        try:
            self._start_needed()
            while any(self._running.values()) or source.waiting():
                yield from self._next_events()
        finally:
            # Those of a cluster that is ending as well take their time.
            with ThreadPoolExecutor(max(1, len(self._running))) as together:
                list(together.map(lambda worker: worker.kill(), self._running))
            self._running.clear()
            self._idle.clear()

    def _start_needed(self) -> None:
        """Start workers, as many as there are trials that could run now and nobody is free for."""
        used = {worker.number for worker in self._running}
        numbers = [
            number
            for number in range(1, self.workers + 1)
            if number not in used and self._failed_starts[number] < _STARTS
        ]
        free = sum(running is None for running in self._running.values())
        for number in numbers[: max(0, self._source.waiting() - free)]:
            self._start(number)

    def _start(self, number: int) -> None:
        # Only the first worker measures the untouched model, and only once.
        setup = {
            **self.setup,
            "untouched": self.setup["untouched"] and number == 1,
            "processes": self.processes,
        }
        self._running[self._hire(number, setup, self._inbox)] = None

    def _next_events(self) -> Iterator[Event]:
        try:
            worker, message = self._inbox.get(timeout=self._patience_s())
        except queue.Empty:
            yield Tick()
            yield from self._end_overdue()
            return
        if worker not in self._running:
            return
        running = self._running[worker]
        kind = message["event"]
        if kind == "ready":
            self.setup["untouched"] &= worker.number != 1
            self._ever_ready = True
            del self._failed_starts[worker.number], self._lost_starts[worker.number]
            yield Ready(worker.number, Facts(**message["facts"]))
            self._idle.add(worker)
            yield from self._give_all()
        elif kind == "refused":
            yield from self._cannot_start(worker, message["message"])
        elif kind == "step" and running:
            running.losses.append(message["loss"])
            yield Stepped(worker.number, running.trial, message["step"], message["loss"])
        elif kind == "result" and running:
            self._running[worker] = None
            self._idle.add(worker)
            yield self._finished(worker, running, RunRecord.from_dict(message["record"]))
            yield from self._give_all()
        elif kind == "failed" and running:
            # The worker ends now. Of several processes the first to fail is the cause.
            running.failure = running.failure or (message["status"], message["reason"])
        elif kind == "notice":
            yield Notice(message["text"])
        elif kind == LOST:
            yield from self._lose(worker, running, message)
        elif kind == EXITED:
            if was_asked_to_end(message):
                # Who ends a whole job tells this process as well: then no trial has failed.
                time.sleep(JOB_ENDS_S)
            told = running.failure if running else None
            status, reason = cause_of_death(message, told, worker.log)
            if running is not None:
                yield from self._fail(worker, running, status, reason)
                return
            where = f"{reason} in {worker.log.parent}"
            yield from self._cannot_start(
                worker, f"worker {worker.number} could not start: {where}"
            )

    def _give_all(self) -> Iterator[Event]:
        """Give every waiting worker a trial, and start more workers where more could run."""
        for worker in sorted(self._idle, key=lambda idle: idle.number):
            trial = self._source.take(worker.number)
            if trial is None:
                continue
            self._idle.remove(worker)
            self._running[worker] = _Running(trial)
            worker.send({"trial": trial.to_dict()})
            yield Started(worker.number, trial)
        self._start_needed()

    def _finished(self, worker: Worker, running: _Running, record: RunRecord) -> Finished:
        wall_s = time.monotonic() - running.began
        return Finished(worker.number, running.trial, record, wall_s)

    def _fail(self, worker: Worker, running: _Running, status: str, reason: str) -> Iterator[Event]:
        self._drop(worker)
        record = failed_record(running.trial, status, reason, running.losses)
        yield self._finished(worker, running, record)
        yield from self._give_all()

    def _lose(
        self, worker: Worker, running: _Running | None, message: dict[str, Any]
    ) -> Iterator[Event]:
        """Go on without a machine: what ran there runs again, unless it may well be the cause."""
        reason = message["reason"]
        told = f"worker {worker.number} is lost: {reason}"
        if running is None:
            if worker not in self._idle:
                self._lost_starts[worker.number] += 1
            if self._lost_starts[worker.number] >= LOSSES:
                yield from self._cannot_start(worker, told)
                return
            yield Notice(told)
            self._drop(worker)
            self._start_needed()
            return
        trial = running.trial
        self._losses[trial.id] += 1
        if message.get("out_of_memory"):
            yield from self._fail(worker, running, "oom", reason)
        elif self._losses[trial.id] < LOSSES:
            yield Notice(f"{told}; {trial.spec} runs again")
            yield from self._fail(worker, running, "interrupted", reason)
        else:
            yield from self._fail(worker, running, "error", f"lost {LOSSES} workers: {reason}")

    def _drop(self, worker: Worker) -> None:
        worker.kill()
        del self._running[worker]
        self._idle.discard(worker)

    def _cannot_start(self, worker: Worker, reason: str) -> Iterator[Event]:
        self._drop(worker)
        if not self._ever_ready:
            if self.on_one_machine or not self._running:
                raise ValueError(reason)
            yield Notice(reason)
            self._failed_starts[worker.number] = _STARTS
            return
        self._failed_starts[worker.number] += 1
        self._start_needed()
        if not self._running:
            while trial := self._source.take(worker.number):
                yield Finished(worker.number, trial, failed_record(trial, "error", reason), 0.0)

    def _deadlines(self) -> dict[Worker, float]:
        """When each worker is overdue, of those that have a limit."""
        deadlines = {}
        for worker, running in self._running.items():
            if running is not None:
                if self.trial_timeout_s is not None:
                    deadlines[worker] = running.began + self.trial_timeout_s
            elif worker not in self._idle and worker.began is not None:
                deadlines[worker] = worker.began + self.start_timeout_s
        return deadlines

    def _patience_s(self) -> float:
        """Seconds until the first worker is overdue, or a moment."""
        overdue = min(self._deadlines().values(), default=math.inf)
        return min(_TICK_S, max(0.0, overdue - time.monotonic()))

    def _end_overdue(self) -> Iterator[Event]:
        now = time.monotonic()
        for worker, deadline in self._deadlines().items():
            if now < deadline:
                continue
            running = self._running[worker]
            if running is None:
                reason = f"worker {worker.number} was not ready after {self.start_timeout_s:g} s"
                yield from self._cannot_start(worker, f"{reason}; see {worker.log}")
            else:
                reason = (
                    f"over the recipe's limit of {self.trial_timeout_s:g} s "
                    f"after step {len(running.losses)}"
                )
                status, reason = running.failure or ("timeout", reason)
                yield from self._fail(worker, running, status, reason)
