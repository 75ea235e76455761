"""Where a user asks for trials to run: executor, workers, and what each trial gets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from optbench_llm.leaderboard.executor import Site
from optbench_llm.leaderboard.local import LocalSite

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Placement:
    """What was asked for; None is the default.

    That of ``workers`` is one here, and as many as fit on a cluster.
    """

    executor: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None

    def open(self, processes: int) -> AbstractContextManager[Site]:
        """The site, for trials of so many processes; a cluster is left at the end.

        Raises:
            ValueError: no such executor, an option that it does not take, or as
                `ray_site.connected`.
        """
        if self.executor not in EXECUTORS:
            raise ValueError(f"--executor {self.executor!r}: expected {' or '.join(EXECUTORS)}")
        if self.executor == "ray":
            from optbench_llm.leaderboard.ray_site import connected

            return connected(
                self.ray_address or "auto",
                processes=processes,
                workers=self.workers,
                cpus_per_trial=self.cpus_per_trial,
                gpus_per_trial=self.gpus_per_trial,
            )
        for name in ("ray_address", "cpus_per_trial", "gpus_per_trial"):
            if getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: is for --executor ray")
        return nullcontext(LocalSite(self.workers or 1))
