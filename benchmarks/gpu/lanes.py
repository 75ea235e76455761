"""Tasks for several processes that take one after another, each task with a deadline of its own.

A fault on a GPU spoils the process it happened in for all that follows: such a one is replaced, and
so is one that hangs.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

Task = dict[str, Any]
#: What a task's result says where its process must not be used again.
SPENT = "spent"


class Lane:
    """One process at a time: it reads tasks and writes results, one line of JSON each."""

    def __init__(self, module: str, limit_s: float) -> None:
        self._command = [sys.executable, "-m", module]
        self._limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: Task) -> dict[str, Any]:
        """The result of one task; its key ``error`` says what befell the process, if anything."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        process, late = self._process, threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._limit_s, end)
        timer.start()
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        timer.cancel()
        if line and not late.is_set():
            result = json.loads(line)
            if result.pop(SPENT, False):
                self.close()
            return result
        rc = self.close()
        if late.is_set():
            return {"error": f"ended at its deadline of {self._limit_s:g} s"}
        return {"error": f"its process ended with exit code {rc}"}

    def close(self) -> int | None:
        """End the process, if there is one; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
        return process.returncode


def in_lanes(
    tasks: Sequence[Task], module: str, *, lanes: int, limit_s: float
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task with its result as it comes; ``module`` is what the processes run."""
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Task, dict[str, Any]]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        lane = Lane(module, limit_s)
        with contextlib.suppress(queue.Empty):
            while True:
                task = waiting.get_nowait()
                done.put((task, lane.run(task)))
        lane.close()

    for _ in range(min(lanes, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    for _ in tasks:
        yield done.get()
