"""A Ray cluster as a place for trials (Ray Core: what is run next is our own search's)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.executor import Executor
from optbench_llm.leaderboard.ray_workers import RayExecutor, Share
from optbench_llm.stopping import HEEDED

#: How long a cluster may take to answer.
_ANSWER_S = 10.0
_LOG = logging.getLogger(__name__)
_INSTALL = 'pip install "optbench-llm[ray]"'
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RaySite:
    """A cluster that this process is connected to; see `connected`."""

    workers: int
    share: Share
    room: int

    @property
    def in_words(self) -> str:
        """What there is room for."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        told = f"Ray: {workers} of {self.share.in_words}{' each' * (self.workers > 1)}"
        if self.workers > self.room:
            told += f"; the cluster has room for {self.room}, the others wait"
        return told

    def threads(self, processes: int) -> int:
        """Threads of each of a trial's processes: an equal part of its cores."""
        return max(1, self.share.cpus // processes)

    def executor(
        self,
        setup: dict[str, Any],
        *,
        processes: int,
        log_folder: Path,
        trial_timeout_s: float | None,
    ) -> Executor:
        """What runs trials on the cluster."""
        return RayExecutor(
            setup=setup,
            workers=self.workers,
            processes=processes,
            log_folder=log_folder,
            trial_timeout_s=trial_timeout_s,
            share=self.share,
            threads=self.threads(processes),
        )


@contextlib.contextmanager
def connected(
    address: str,
    *,
    processes: int = 1,
    workers: int | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
) -> Iterator[RaySite]:
    """Connect to the cluster at ``address``: ``auto``, ``local`` for one of its own, or HOST:PORT.

    A trial takes a GPU for each of its ``processes`` where the cluster has any, and as many cores;
    there are as many ``workers`` as that leaves room for.

    Raises:
        ValueError: Ray is not installed, no cluster answers, it runs another version of Ray or
            Python, or no node has what a trial asks for.
    """
    ray = _import_ray()
    _check_address(address)
    with _own_signal_handlers():
        _connect(ray, address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = _share(nodes, processes, cpus_per_trial, gpus_per_trial)
        room = sum(share.room_in(node) for node in nodes)
        yield RaySite(room if workers is None else workers, share, room)
    finally:
        with _own_signal_handlers():
            ray.shutdown()


def _share(
    nodes: Sequence[Mapping[str, float]],
    processes: int,
    cpus: int | None,
    gpus: float | None,
) -> Share:
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if gpus is None:
        gpus = processes if most_gpus else 0
    elif gpus > 1 and gpus != processes:
        raise ValueError(
            f"--gpus-per-trial {gpus:g}: each GPU of a trial takes a process, and it has "
            f"{processes}; give --processes-per-trial {gpus:g}"
        )
    elif processes > 1 and 0 < gpus < processes:
        raise ValueError(
            f"--gpus-per-trial {gpus:g}: {processes} processes of a trial cannot share GPUs; "
            f"give {processes}, or 0 to run on CPUs"
        )
    share = Share(processes if cpus is None else cpus, gpus)
    if not any(share.room_in(node) for node in nodes):
        there = {f"CPU: {node.get('CPU', 0):g}, GPU: {node.get('GPU', 0):g}" for node in nodes}
        raise ValueError(
            f"a trial takes {share.in_words}, and no node of the cluster has as much "
            f"({'; '.join(sorted(there))}); "
            "lower --gpus-per-trial, --cpus-per-trial or --processes-per-trial"
        )
    return share


def _import_ray() -> Any:
    # Whoever runs a benchmark has not agreed to tell others of it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _own_signal_handlers():
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                f"--executor ray: Ray is not installed ({error}); {_INSTALL}"
            ) from None
    return ray


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM; ours is what ends a board with its table."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*HEEDED, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_address(address: str) -> None:
    """Ask whether anybody listens: Ray would try for a minute, and fill the screen."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ValueError(
            f"--ray-address {address!r}: expected auto, local or HOST:PORT of the cluster's head; "
            "the leaderboard itself runs on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--ray-address {address}: nobody answers ({error}); see ray status on the cluster's "
            "head, which prints the address when it starts"
        ) from None


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        raise ValueError("this process is connected to a Ray cluster already")
    try:
        _quieten()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="optbench_llm",
                # Nodes run this code, not what they may have installed.
                runtime_env={"py_modules": [str(_PACKAGE)]},
            )
    except ConnectionError as error:
        if address == "auto":
            raise ValueError(
                "--ray-address auto: no Ray cluster runs here; start one with ray start --head, "
                "give HOST:PORT of one, or local for one of its own"
            ) from None
        raise ValueError(f"--ray-address {address}: {_on_one_line(error)}") from None
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise ValueError(f"--ray-address {address}: {_on_one_line(error)}") from None


def _quieten() -> None:
    """Keep the log of a node that dies, twenty lines and more, off the progress.

    Ray has no switch for it. That a worker is lost, and why, the pool says itself.
    """
    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix: _LOG.info("%s", data.get("lines"))


def _on_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
