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

    Every item of ``inbox`` is ``(this process, event)``; the last event is `exited`'s.
    """

    def __init__(
        self,
        number: int,
        setup: dict[str, Any],
        inbox: queue.Queue,
        log: Path,
        gpus: Mapping[str, str],
        program: str | None = None,
    ) -> None:
        self.number = number
        self.log = log
        self.began: float | None = time.monotonic()
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
                [sys.executable, *_arguments(setup, program or _WORKER)],
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

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._inbox.put((self, json.loads(line)))
        except ValueError:
            # The last line of a worker that was killed while it wrote; nothing can follow it.
            self._end()
        finally:
            code = self._process.wait()
            out_of_memory = code == -signal.SIGKILL and _oom_kills() > self._oom_kills_before
            self._inbox.put((self, exited(code, out_of_memory=out_of_memory)))


def exited(code: int, *, out_of_memory: bool = False) -> dict[str, Any]:
    """The last event of a worker: its exit code, and whether the system had no memory left."""
    return {"event": EXITED, "code": code, "out_of_memory": out_of_memory}


def was_asked_to_end(event: Mapping[str, Any]) -> bool:
    """Whether a worker exited by a signal that whoever ends a job sends to all of it."""
    return -event["code"] in HEEDED


def cause_of_death(
    event: Mapping[str, Any], told: tuple[str, str] | None, log: Path
) -> tuple[str, str]:
    """Status and reason for the trial that was running when a worker exited.

    ``told`` is what the worker said itself. Where a signal ended one of its processes, that only
    followed from it.
    """
    code = event["code"]
    if code >= 0:
        return told or ("error", f"worker ended with exit code {code}; see {log.name}")
    name = signal.Signals(-code).name
    if event["out_of_memory"]:
        return "oom", f"worker killed by {name}: the system ran out of memory"
    return "error", f"worker killed by {name}; see {log.name}"


def _arguments(setup: dict[str, Any], program: str) -> list[str]:
    """What Python is to run."""
    path = json.dumps(sys.path)
    worker = ["-c", program, path]
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
