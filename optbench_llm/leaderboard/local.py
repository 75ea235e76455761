"""Workers that are processes of this machine."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.cores import threads_per_process
from optbench_llm.leaderboard.gpus import own_gpus
from optbench_llm.leaderboard.pool import WorkerPool
from optbench_llm.leaderboard.process import WorkerProcess


class LocalExecutor(WorkerPool):
    """Workers that share the cores and GPUs of this machine."""

    def _hire(self, number: int, setup: dict[str, Any], inbox: queue.Queue) -> WorkerProcess:
        log = self.log_folder / f"worker-{number}.log"
        gpus = own_gpus(number, self.workers, self.processes)
        threads = threads_per_process(self.workers * self.processes)
        return WorkerProcess(number, {**setup, "threads": threads}, inbox, log, gpus)


@dataclass(frozen=True)
class LocalSite:
    """This machine, with so many workers."""

    workers: int = 1
    in_words: str | None = None

    def threads(self, processes: int) -> int:
        """An equal share of the cores, or the user's own OMP_NUM_THREADS."""
        return threads_per_process(self.workers * processes)

    def executor(
        self,
        setup: dict[str, Any],
        *,
        processes: int,
        log_folder: Path,
        trial_timeout_s: float | None,
    ) -> LocalExecutor:
        """What runs trials here."""
        return LocalExecutor(setup, self.workers, log_folder, processes, trial_timeout_s)
