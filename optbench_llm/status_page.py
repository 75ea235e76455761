"""What ``optbench-llm status`` tells of a store: how far the run is that writes to it."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.standing import FILE, Standing, clock

#: Seconds between two looks, and what a run may be silent before it is said to be.
_LOOK_S, _SILENT_S = 2.0, 30.0


@dataclass(frozen=True)
class Status:
    """What a run last told, and whether it still goes on."""

    standing: Standing
    is_alive: bool

    @property
    def state(self) -> str:
        """``running``, how it ended, or ``gone`` where it ended without a word."""
        if self.is_alive:
            # What a run before this one has left is no word of it.
            return "running" if self.standing.over is None else "starting"
        return self.standing.over or "gone"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        told = self.standing.to_dict()
        return {"state": self.state, **told, "age_s": max(0.0, time.time() - self.standing.at)}

    def lines(self) -> list[str]:
        """For people."""
        told = self.standing
        state = {
            "running": f"running on {told.host} (process {told.pid})",
            "starting": "a run is starting; this is of the one before",
            "done": "ended",
            "gone": "its process is gone, and said nothing; the same command goes on",
        }.get(self.state, f"ended by {self.state}; the same command goes on")
        if self.state.startswith("error: "):
            state = f"failed: {self.state.removeprefix('error: ')}"
        lines = [f"{told.recipe}: {state}", self._count()]
        age_s = time.time() - told.at
        if self.state == "running" and age_s > _SILENT_S:
            lines.append(f"no word for {clock(age_s)}")
        if self.state == "running":
            lines += [
                f"  worker {trial.worker}   {trial.in_words}, {clock(told.at - trial.since)}"
                for trial in told.running
            ]
        if told.failures:
            lines.append("last failures:")
            lines += [f"  {one.name}: {one.status}: {one.reason}" for one in told.failures]
        return lines

    def _count(self) -> str:
        told = self.standing
        count = f"{told.ended} of {told.planned} trials have ended"
        if told.by_status:
            ways = ", ".join(f"{number} {status}" for status, number in told.by_status.items())
            count += f" ({ways} in this run, {clock(told.at - told.began)})"
        if self.state == "running" and told.left_s is not None:
            several = "" if told.workers == 1 else "s"
            count += f", {clock(told.left_s)} left with {told.workers} worker{several}"
        return count


def read_status(store: Path) -> Status:
    """The status of the run that writes to a store, or that last did; nothing is written.

    Raises:
        ValueError: no store, one that no run of this version has written to, or a damaged file.
    """
    if not (store / "store.json").is_file():
        raise ValueError(f"{store}: holds no store (no store.json)")
    path = store / FILE
    # First: a run that ends in between has said so.
    is_alive = _is_written_to(store)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        trials = store / "trials"
        count = sum(entry.name[0] != "." for entry in os.scandir(trials)) if trials.is_dir() else 0
        raise ValueError(
            f"{store}: has no {FILE} (trials in it: {count}); "
            "a run of this version writes it when its first worker starts"
        ) from None
    try:
        standing = Standing.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); the next run writes it anew") from None
    return Status(standing, is_alive)


def print_status(store: Path, *, follow: bool) -> None:
    """Print the status; with ``follow`` again and again, until the run has ended.

    Raises:
        ValueError: as `read_status`.
    """
    from rich.live import Live
    from rich.text import Text

    from optbench_llm.terminal import make_console

    console = make_console()
    status = read_status(store)
    if not follow or not status.is_alive:
        print("\n".join(status.lines()))
        return
    if not console.is_terminal:
        while status.is_alive:
            print("\n".join(status.lines()), flush=True)
            time.sleep(60)
            status = read_status(store)
        print("\n".join(status.lines()))
        return
    with Live(Text("\n".join(status.lines())), console=console, auto_refresh=False) as live:
        while status.is_alive:
            time.sleep(_LOOK_S)
            status = read_status(store)
            live.update(Text("\n".join(status.lines())), refresh=True)


def _is_written_to(store: Path) -> bool:
    """Whether a process holds the store's lock, which dies with it."""
    import fcntl

    try:
        lock = open(store / "lock", "rb")  # noqa: SIM115
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False
