"""Run trials in warm worker processes of this machine."""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.executor import (
    Event,
    Finished,
    Ready,
    Started,
    Stepped,
    failed_record,
)
from optbench_llm.leaderboard.process import EXITED, WorkerProcess
from optbench_llm.leaderboard.trial import TrialSpec


def usable_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Running:
    """The trial that a worker is at, and what it has told of it so far."""

    trial: TrialSpec
    began: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)


@dataclass
class LocalExecutor:
    """``workers`` processes, each with its share of the cores; one that fails is replaced.

    A worker loads data, model and code once and then runs trial after trial. It is kept only while
    its trials succeed: what a failed trial left behind can touch no other.
    """

    setup: dict[str, Any]
    workers: int
    log_folder: Path
    trial_timeout_s: float | None = None
    _inbox: queue.Queue = field(default_factory=queue.Queue, init=False)
    _running: dict[WorkerProcess, _Running | None] = field(default_factory=dict, init=False)
    _pending: deque[TrialSpec] = field(default_factory=deque, init=False)

    def run(self, trials: Sequence[TrialSpec]) -> Generator[Event, None, None]:
        """Run ``trials`` in order; see `Executor.run`."""
        self._pending.extend(trials)
        try:
            for number in range(1, min(self.workers, len(trials)) + 1):
                self._start(number)
            while self._pending or any(self._running.values()):
                yield from self._next_events()
        finally:
            for worker in self._running:
                worker.kill()
            self._running.clear()

    def _start(self, number: int) -> None:
        log = self.log_folder / f"worker-{number}.log"
        threads = max(1, usable_cores() // self.workers)
        # Only the first worker measures the untouched model, and only once.
        baseline = self.setup["baseline"] and number == 1
        setup = {**self.setup, "threads": threads, "number": number, "baseline": baseline}
        self._running[WorkerProcess(number, setup, self._inbox, log)] = None

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
            self.setup["baseline"] = False
            yield Ready(worker.number, message["facts"])
            yield from self._give_next(worker)
        elif kind == "refused":
            raise ValueError(message["message"])
        elif kind == "step" and running:
            running.losses.append(message["loss"])
            yield Stepped(worker.number, running.trial, message["step"], message["loss"])
        elif kind == "result" and running:
            yield self._finish(worker, message["record"], message["losses"])
            if message["healthy"]:
                yield from self._give_next(worker)
            else:
                self._replace(worker)
        elif kind == EXITED:
            status, reason = worker.death()
            if running is None:
                raise ValueError(
                    f"worker {worker.number} could not start: {reason} in {worker.log.parent}"
                )
            yield self._fail(worker, status, reason)

    def _give_next(self, worker: WorkerProcess) -> Iterator[Event]:
        if not self._pending:
            worker.kill()
            del self._running[worker]
            return
        trial = self._pending.popleft()
        self._running[worker] = _Running(trial)
        worker.send({"trial": trial.to_dict()})
        yield Started(worker.number, trial)

    def _finish(
        self, worker: WorkerProcess, record: dict[str, Any], losses: list[float]
    ) -> Finished:
        running = self._running[worker]
        assert running is not None
        self._running[worker] = None
        wall_s = time.monotonic() - running.began
        return Finished(worker.number, running.trial, record, losses, wall_s)

    def _fail(self, worker: WorkerProcess, status: str, reason: str) -> Finished:
        running = self._running[worker]
        assert running is not None
        record = failed_record(running.trial, status, reason, running.losses)
        finished = self._finish(worker, record, running.losses)
        self._replace(worker)
        return finished

    def _replace(self, worker: WorkerProcess) -> None:
        worker.kill()
        del self._running[worker]
        if self._pending:
            self._start(worker.number)

    def _patience_s(self) -> float | None:
        """Seconds until the first running trial is overdue; None where there is no limit."""
        if self.trial_timeout_s is None:
            return None
        begun = [running.began for running in self._running.values() if running]
        return max(0.0, min(begun) + self.trial_timeout_s - time.monotonic()) if begun else None

    def _end_overdue(self) -> Iterator[Event]:
        assert self.trial_timeout_s is not None
        now = time.monotonic()
        for worker, running in list(self._running.items()):
            if running and now - running.began >= self.trial_timeout_s:
                reason = (
                    f"over the recipe's limit of {self.trial_timeout_s:g} s "
                    f"after step {len(running.losses)}"
                )
                yield self._fail(worker, "timeout", reason)
