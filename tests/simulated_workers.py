"""Workers that run nothing: what they say of each trial is whatever a test wants."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.pool import WorkerPool
from optbench_llm.run_record import RunRecord

FACTS = {
    "device": "cpu", "device_type": "cpu", "threads": 1, "processes": 1, "steps": 3, "data": "",
}  # fmt: skip
#: From a worker's number, how many it is of that number, and a trial: the events that follow.
Script = Callable[[int, int, dict[str, Any]], list[dict[str, Any]]]
#: From a worker's number, and how many it is of that number: its first event.
Begin = Callable[[int, int], dict[str, Any]]


def result_of(record: RunRecord) -> dict[str, Any]:
    """The event of a trial that ran to its end."""
    return {"event": "result", "record": record.to_dict()}


class SimulatedWorker:
    """Answers each command at once, or after ``wait_s``."""

    def __init__(
        self,
        number: int,
        start: int,
        inbox: queue.Queue,
        script: Script,
        wait_s: float,
        begin: Begin,
    ) -> None:
        self.number, self.log, self.began = number, Path(f"worker-{number}.log"), 0.0
        self.killed = False
        self._start, self._inbox, self._script, self._wait_s = start, inbox, script, wait_s
        inbox.put((self, begin(number, start)))

    def send(self, command: dict[str, Any]) -> None:
        events = self._script(self.number, self._start, command["trial"])
        if self._wait_s:
            threading.Timer(self._wait_s, self._say, [events]).start()
        else:
            self._say(events)

    def kill(self) -> None:
        self.killed = True

    def _say(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            self._inbox.put((self, event))


@dataclass
class SimulatedPool(WorkerPool):
    """A pool of such workers, each on a machine of its own; ``hired`` are all that ever were."""

    on_one_machine = False
    script: Script = lambda number, start, trial: []
    wait_s: float = 0.0
    begin: Begin = lambda number, start: {"event": "ready", "facts": FACTS}
    hired: list[SimulatedWorker] = field(default_factory=list)

    def _hire(self, number: int, setup: dict[str, Any], inbox: queue.Queue) -> SimulatedWorker:
        start = sum(worker.number == number for worker in self.hired)
        worker = SimulatedWorker(number, start, inbox, self.script, self.wait_s, self.begin)
        self.hired.append(worker)
        return worker
