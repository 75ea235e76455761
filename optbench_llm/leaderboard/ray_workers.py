"""The workers of a Ray cluster: each an actor that keeps a worker process on its node."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.pool import LOST, WorkerPool
from optbench_llm.leaderboard.process import EXITED, GONE_S, was_asked_to_end
from optbench_llm.leaderboard.ray_host import Host

#: A worker without a place after so long says that it waits.
_SAY_WAITING_S = 30.0
#: How long a node may take to end a worker, a little more than that takes, and its reader here.
_END_S, _READER_S = GONE_S + 5.0, 10.0
#: How Ray begins, whatever has happened to an actor.
_SAYS_NOTHING = ("The actor died unexpectedly before", "The actor died because", "Traceback")


@dataclass(frozen=True)
class Share:
    """What one trial takes of a node."""

    cpus: int
    gpus: float

    @property
    def in_words(self) -> str:
        """``1 CPU and 2 GPUs``."""
        cpus = f"{self.cpus} CPU{'' if self.cpus == 1 else 's'}"
        if not self.gpus:
            return cpus
        return f"{cpus} and {self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"

    def room_in(self, node: Mapping[str, float]) -> int:
        """How many trials a node of these resources can take at a time."""
        rooms = [node.get("CPU", 0.0) // self.cpus]
        gpus = node.get("GPU", 0.0)
        if 0 < self.gpus < 1:
            # A trial's share is of one GPU.
            rooms.append(gpus * math.floor(1 / self.gpus + 1e-9))
        elif self.gpus:
            rooms.append(gpus // self.gpus)
        return int(min(rooms))


@dataclass
class RayExecutor(WorkerPool):
    """Workers that are actors of the cluster, each with its share of a node.

    ``program`` is what a worker runs, in the place of the usual one. A node of other versions is
    left out from then on.
    """

    on_one_machine: ClassVar[bool] = False
    share: Share = field(default_factory=lambda: Share(1, 0))
    threads: int = 1
    program: str | None = None
    _left_out: dict[str, str] = field(default_factory=dict, init=False)

    def _hire(self, number: int, setup: dict[str, Any], inbox: queue.Queue) -> _RayWorker:
        self._refuse_without_nodes()
        setup = {**setup, "threads": self.threads, "has_gpu": self.share.gpus > 0}
        log = self.log_folder / f"worker-{number}.log"
        return _RayWorker(number, setup, inbox, log, self.share, self.program, self._left_out)

    def _refuse_without_nodes(self) -> None:
        """Nothing would ever run where all nodes are left out."""
        if not self._left_out:
            return
        import ray

        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        if not set(alive) - set(self._left_out):
            reasons = "; ".join(dict.fromkeys(self._left_out.values()))
            raise ValueError(f"no node of the cluster can be used: {reasons}")


class _RayWorker:
    """One actor, and a thread here that takes in what its worker says."""

    def __init__(
        self,
        number: int,
        setup: dict[str, Any],
        inbox: queue.Queue,
        log: Path,
        share: Share,
        program: str | None,
        left_out: dict[str, str],
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

        self.number, self.log = number, log
        self.began: float | None = None
        self._inbox, self._left_out = inbox, left_out
        self._has_place = self._is_ending = False
        elsewhere = None
        if left_out:
            elsewhere = NodeLabelSchedulingStrategy(hard={"ray.io/node-id": NotIn(*left_out)})
        actor = ray.remote(Host).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=0,
            max_concurrency=4,
            scheduling_strategy=elsewhere,
        )
        self._actor: Any = actor.remote(number, setup, program, _made_importable())
        self._reader = threading.Thread(target=self._take_in, daemon=True)
        self._reader.start()

    def send(self, command: dict[str, Any]) -> None:
        """Send the worker a command."""
        self._actor.send.remote(command)

    def kill(self) -> None:
        """End the worker, so that what it held is free, and give its place back."""
        import ray
        from ray.exceptions import RayError

        self._is_ending = True
        if self._has_place:
            with contextlib.suppress(RayError):
                ray.get(self._actor.end.remote(), timeout=_END_S)
        ray.kill(self._actor)
        # A reader that stays behind would connect to Ray anew.
        self._reader.join(_READER_S)

    def _take_in(self) -> None:
        import ray

        try:
            if not self._is_usable(self._wait_for_place()):
                return
            while True:
                events, printed = ray.get(self._actor.output.remote())
                self._keep(printed)
                for event in events:
                    if event["event"] == EXITED and was_asked_to_end(event):
                        # Who ends a node tells its worker first, and not this process.
                        name = signal.Signals(-event["code"]).name
                        self._lose(f"its worker was ended by {name}")
                        return
                    self._inbox.put((self, event))
                if events[-1]["event"] == EXITED:
                    return
        except Exception as error:
            # Whatever went wrong: without a last event the board would wait for ever.
            if not self._is_ending:
                self._lose(_why_lost(error), out_of_memory=_is_for_memory(error))

    def _wait_for_place(self) -> dict[str, Any]:
        """The environment of the node on which it has one."""
        import ray

        asked = self._actor.environment.remote()
        found, _ = ray.wait([asked], timeout=_SAY_WAITING_S)
        if not found and not self._is_ending:
            text = f"worker {self.number} waits for room in the cluster"
            self._inbox.put((self, {"event": "notice", "text": text}))
        there: Any = ray.get(asked)
        self._has_place = True
        return there

    def _is_usable(self, there: Mapping[str, Any]) -> bool:
        differing = _other_versions(there)
        if differing:
            reason = f"node {there['node']} is left out, its losses could differ: {differing}"
            self._left_out[there["node_id"]] = reason
            self._lose(reason)
            return False
        self.began = time.monotonic()
        return True

    def _keep(self, printed: bytes) -> None:
        # A log that cannot be written takes nothing from the trials.
        with contextlib.suppress(OSError), open(self.log, "ab") as log:
            log.write(printed)

    def _lose(self, reason: str, *, out_of_memory: bool = False) -> None:
        event = {"event": LOST, "reason": reason, "out_of_memory": out_of_memory}
        self._inbox.put((self, event))


def _made_importable() -> list[str]:
    """Folders of this process that Ray lets workers import from, and Python here does not."""
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    return [folder for folder in {script, os.getcwd()} if folder not in sys.path]


def _other_versions(there: Mapping[str, Any]) -> str:
    """In what the packages of a node differ from those here; builds for other devices are alike."""
    ours, theirs = describe_environment()["versions"], there["versions"]
    differing = [
        f"{name} {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here"
        for name in sorted({*ours, *theirs})
        if _public(ours.get(name)) != _public(theirs.get(name))
    ]
    return ", ".join(differing)


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]


def _is_for_memory(error: BaseException) -> bool:
    """Whether Ray ended an actor because its node had no memory left."""
    from ray.exceptions import OutOfMemoryError

    return isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)


def _why_lost(error: BaseException) -> str:
    """The sentence of what Ray says of a dead actor that tells why."""
    lines = [line for line in str(error).splitlines() if line.strip() and line[0] not in "\t "]
    told = [line.strip() for line in lines if not line.startswith(_SAYS_NOTHING)]
    return (told[0] if told else type(error).__name__)[:300]
