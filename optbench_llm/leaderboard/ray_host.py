"""What runs on a node of a Ray cluster: an actor that keeps one worker process there.

The actor holds the worker's place in the cluster, passes lines to and from it, and sends on what
it prints. The process is the same as on one machine: it can be killed with all that it holds, and
it ends by itself when the actor is gone. Imports no torch.
"""

from __future__ import annotations

import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.process import WorkerProcess

#: Without a GPU of its own a worker sees none; Ray itself would let it see them all.
_NO_GPUS = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


class Host:
    """One worker process of this node. Each method may be called while `output` waits."""

    def __init__(
        self, number: int, setup: dict[str, Any], program: str | None, not_to_import: Sequence[str]
    ) -> None:
        """Start the worker; ``not_to_import`` are folders that Ray made importable.

        ``program`` is what it runs in the place of the usual one.
        """
        sys.path[:] = [path for path in sys.path if path not in not_to_import]
        self._folder = Path(tempfile.mkdtemp(prefix=f"optbench-worker-{number}-"))
        self._log = open(self._folder / "log", "a+b")  # noqa: SIM115
        self._inbox: queue.Queue = queue.Queue()
        setup = {**setup, "scratch": str(self._folder)}
        # Ray has chosen the GPUs, in the environment that the worker inherits.
        gpus = {} if setup.get("has_gpu") else _NO_GPUS
        log = Path(self._log.name)
        self._worker = WorkerProcess(number, setup, self._inbox, log, gpus, program)

    def environment(self) -> dict[str, Any]:
        """Versions and machine of this node."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        return {**describe_environment(), "node": os.uname().nodename, "node_id": node_id}

    def send(self, command: dict[str, Any]) -> None:
        """Send the worker a command."""
        self._worker.send(command)

    def output(self) -> tuple[list[dict[str, Any]], bytes]:
        """The worker's events since the last call, at least one, and what it has printed."""
        events = [self._inbox.get()[1]]
        while not self._inbox.empty():
            events.append(self._inbox.get()[1])
        return events, self._log.read()

    def end(self) -> None:
        """Kill the worker and whatever it started, and wait until what they held is free."""
        self._worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
