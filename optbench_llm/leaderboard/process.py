"""One worker process as its parent sees it: commands go in and events come out as JSON lines.

The worker runs in a session of its own, so Ctrl-C reaches the parent alone, and it ends by itself
when its standard input closes, which is what the operating system does when the parent is killed.
What it prints goes to a log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench_llm.stopping import HEEDED

EXITED = "exited"
#: Killed processes take a moment to go, and longer where a driver holds them.
GONE_S = 10.0
# The parent's own search path: with -m, a folder datasets/ beside the user would be imported.
_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_WORKER = _PATH + "from optbench_llm.leaderboard.worker import main; main()"
_GROUP = (
    _PATH + "from optbench_llm.leaderboard.group import main; "
    "main(json.loads(sys.argv[2]), sys.argv[3:])"
)


class WorkerProcess:
    """Start a worker, send it commands, and have its events put into ``inbox``.

    A worker of several processes is torchrun's process here, and what it has started. ``gpus`` are
    the variables that say which GPUs it sees (see `gpus.own_gpus`).

    Every item of ``inbox`` is ``(this process, event)``; the last one is ``{"event": "exited"}``.
    """

    def __init__(
        self,
        number: int,
        setup: dict[str, Any],
        inbox: queue.Queue,
        log: Path,
        gpus: Mapping[str, str],
    ) -> None:
        self.number = number
        self.log = log
        self.began = time.monotonic()
        self._inbox = inbox
        self._oom_kills_before = _oom_kills()
        threads = str(setup["threads"])
        environment = {
            # Threads that spin while they wait make a busy machine several times slower.
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            **gpus,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        with open(log, "a", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *_program(setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.send(setup)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def send(self, command: dict[str, Any]) -> None:
        """Send one command; to a worker that is dead already, its exit event says so."""
        assert self._process.stdin is not None
        # A ValueError where `kill` has closed it.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the worker and whatever it started, at once, and wait until their memory is free."""
        self._end()
        # Every process of the worker holds the other side of what the reader reads.
        self._reader.join(GONE_S)

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # torchrun's processes have sessions of their own: each of them notices.
            self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def was_asked_to_end(self) -> bool:
        """Whether a dead worker ended by a signal that whoever ends a job sends to all of it."""
        return -self._process.wait() in HEEDED

    def death(self, told: tuple[str, str] | None) -> tuple[str, str]:
        """Status and reason for the trial that a dead worker was running.

        ``told`` is what it said itself. Where a signal ended one of its processes, that only
        followed from it.
        """
        code = self._process.wait()
        if code >= 0:
            return told or ("error", f"worker ended with exit code {code}; see {self.log.name}")
        name = signal.Signals(-code).name
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills_before:
            return "oom", f"worker killed by {name}: the system ran out of memory"
        return "error", f"worker killed by {name}; see {self.log.name}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._inbox.put((self, json.loads(line)))
        except ValueError:
            # The last line of a worker that was killed while it wrote; nothing can follow it.
            self._end()
        finally:
            self._process.wait()
            self._inbox.put((self, {"event": EXITED}))


def _program(setup: dict[str, Any]) -> list[str]:
    """What Python is to run."""
    path = json.dumps(sys.path)
    worker = ["-c", _WORKER, path]
    if setup["processes"] == 1:
        return worker
    return ["-c", _GROUP, path, json.dumps(setup), *worker]


def _oom_kills() -> int:
    """How many processes Linux has killed for memory, in this control group and on this machine."""
    total = 0
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
