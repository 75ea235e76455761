"""Run trials in warm worker processes of this machine."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.cores import threads_per_process
from optbench_llm.leaderboard.executor import (
    Event,
    Facts,
    Finished,
    Ready,
    Source,
    Started,
    Stepped,
    failed_record,
)
from optbench_llm.leaderboard.gpus import own_gpus
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.process import EXITED, WorkerProcess
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import RunRecord

JOB_ENDS_S = 1.0


def worker_setup(plan: Plan, scratch: Path, *, untouched: bool) -> dict[str, Any]:
    """What a worker must know before its first trial; it writes to ``scratch``.

    ``untouched`` asks for the losses of the model before any training.
    """
    recipe, inputs = plan.recipe, plan.inputs
    return {
        "inputs": {"model": inputs.model_fingerprint, "data": inputs.data_fingerprint},
        "model": recipe.model,
        "data": recipe.data.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json"),
        "scratch": str(scratch.resolve()),
        "untouched": untouched,
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
class LocalExecutor:
    """``workers``, each with its share of the cores; one that fails is replaced.

    A worker is ``processes`` processes that run each trial together. It loads data, model and code
    once and then runs trial after trial; where there is none for it now, it waits for what the
    trials of others bring. It is kept only while its trials succeed: what a failed trial left
    behind can touch no other. Once any worker has been ready, one that cannot start is tried once
    more; when none is left, neither are trials to hope for, and the rest become rows that say why.
    """

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
    _running: dict[WorkerProcess, _Running | None] = field(default_factory=dict, init=False)
    _idle: set[WorkerProcess] = field(default_factory=set, init=False)
    _ever_ready: bool = field(default=False, init=False)
    _failed_starts: Counter[int] = field(default_factory=Counter, init=False)

    def run(self, source: Source) -> Generator[Event, None, None]:
        """Run what ``source`` gives; see `Executor.run`.

        Raises:
            ValueError: workers cannot start, or have too few GPUs (see `own_gpus`).
        """
        self._source = source
        try:
            self._start_needed()
            while any(self._running.values()) or source.waiting():
                yield from self._next_events()
        finally:
            for worker in self._running:
                worker.kill()
            self._running.clear()
            self._idle.clear()

    def _start_needed(self) -> None:
        """Start workers, as many as there are trials that could run now and nobody is free for."""
        used = {worker.number for worker in self._running}
        numbers = [
            number
            for number in range(1, self.workers + 1)
            if number not in used and not self._failed_starts[number]
        ]
        free = sum(running is None for running in self._running.values())
        for number in numbers[: max(0, self._source.waiting() - free)]:
            self._start(number)

    def _start(self, number: int) -> None:
        log = self.log_folder / f"worker-{number}.log"
        threads = threads_per_process(self.workers * self.processes)
        gpus = own_gpus(number, self.workers, self.processes)
        # Only the first worker measures the untouched model, and only once.
        setup = {
            **self.setup,
            "untouched": self.setup["untouched"] and number == 1,
            "threads": threads,
            "processes": self.processes,
        }
        self._running[WorkerProcess(number, setup, self._inbox, log, gpus)] = None

    def _next_events(self) -> Iterator[Event]:
        try:
            worker, message = self._inbox.get(timeout=self._patience_s())
        except queue.Empty:
            yield from self._end_overdue()
            return
        if worker not in self._running:
            return
        running = self._running[worker]
        kind = message["event"]
        if kind == "ready":
            self.setup["untouched"] = False
            self._ever_ready = True
            del self._failed_starts[worker.number]
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
        elif kind == EXITED:
            if worker.was_asked_to_end():
                # Who ends a whole job tells this process as well: then no trial has failed.
                time.sleep(JOB_ENDS_S)
            status, reason = worker.death(running.failure if running else None)
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

    def _finished(self, worker: WorkerProcess, running: _Running, record: RunRecord) -> Finished:
        wall_s = time.monotonic() - running.began
        return Finished(worker.number, running.trial, record, wall_s)

    def _fail(
        self, worker: WorkerProcess, running: _Running, status: str, reason: str
    ) -> Iterator[Event]:
        self._drop(worker)
        record = failed_record(running.trial, status, reason, running.losses)
        yield self._finished(worker, running, record)
        yield from self._give_all()

    def _drop(self, worker: WorkerProcess) -> None:
        worker.kill()
        del self._running[worker]
        self._idle.discard(worker)

    def _cannot_start(self, worker: WorkerProcess, reason: str) -> Iterator[Event]:
        if not self._ever_ready:
            raise ValueError(reason)
        self._drop(worker)
        self._failed_starts[worker.number] += 1
        if self._source.waiting() and self._failed_starts[worker.number] == 1:
            self._start(worker.number)
        elif not self._running:
            while trial := self._source.take(worker.number):
                yield Finished(worker.number, trial, failed_record(trial, "error", reason), 0.0)

    def _deadlines(self) -> dict[WorkerProcess, float]:
        """When each worker is overdue, of those that have a limit."""
        deadlines = {}
        for worker, running in self._running.items():
            if running is not None:
                if self.trial_timeout_s is not None:
                    deadlines[worker] = running.began + self.trial_timeout_s
            elif worker not in self._idle:
                deadlines[worker] = worker.began + self.start_timeout_s
        return deadlines

    def _patience_s(self) -> float | None:
        """Seconds until the first worker is overdue; None where there is no limit."""
        deadlines = self._deadlines().values()
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

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
