"""Start the processes of one run on this machine, by torchrun's means."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from optbench_llm.devices import gpus
from optbench_llm.stopping import Stopped

#: Set in the processes that `launch` starts.
_LAUNCHED = "OPTBENCH_LAUNCHED"


def is_launched_here() -> bool:
    """Whether `launch` started this process, so that the one that called it speaks for all."""
    return _LAUNCHED in os.environ and "RANK" in os.environ


def launch(processes: int, arguments: list[str], scratch: str | None = None) -> int:
    """Run Python with ``arguments`` in so many processes; when one fails, the others are ended.

    Without a GPU the Trainers in them use the CPU. Returns 0, or the exit code of the process that
    failed first; the negative number of a signal that ended one of them. A signal goes before an
    exit code: the others fail when the one that they wait for is gone. ``scratch`` is a folder for
    torchrun's own files.

    Raises:
        KeyboardInterrupt: a signal told this process to end; the others are gone.
    """
    # torchrun would tell of each signal that it gets and passes on.
    for part in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.ERROR)
    os.environ[_LAUNCHED] = "1"
    if not gpus()[1]:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="torchrun-", dir=scratch) as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=uuid.uuid4().hex,
            max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException as stopped:
            raise Stopped(stopped.sigval) from None
        except ChildFailedError as error:
            codes = [failure.exitcode for failure in error.failures.values()]
            # SIGTERM is what torchrun ends the others with.
            killed = [code for code in codes if code < 0 and code != -signal.SIGTERM]
            return killed[0] if killed else error.get_first_failure()[1].exitcode
    return 0
