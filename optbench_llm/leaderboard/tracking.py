"""Trackers that a board's trials may report to, grouped by recipe and optimizer."""

from __future__ import annotations

import netrc
import os
import re
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from optbench_llm.leaderboard.standing import run_name

#: As ``--report-to`` and pip name them, and as they are imported.
TRACKERS = ("trackio", "tensorboard", "wandb")
_TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"
#: wandb tries for a minute and more before it gives up: once is enough for all trials of a worker.
_IS_WANDB_SILENT = Event()


def check_trackers(names: Sequence[str]) -> None:
    """Look whether trials can report to these.

    Raises:
        ValueError: no such tracker, it is not installed here, or wandb is not logged in.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--report-to {name}: expected some of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(f"--report-to {name}: is not installed; pip install {name}")
    if "wandb" in names and not _is_wandb_usable():
        raise ValueError(
            "--report-to wandb: nobody is logged in; wandb login, or WANDB_MODE=offline"
        )


def tracking_setup(names: Sequence[str], recipe: str, store: Path) -> dict[str, Any] | None:
    """What a worker must know to report to these trackers; None where there are none."""
    if not names:
        return None
    folder = (store / "tensorboard").resolve()
    return {"to": list(dict.fromkeys(names)), "project": recipe, "folder": str(folder)}


@contextmanager
def tracked(setup: Mapping[str, Any] | None, trial: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The Trainer's arguments that make a trial a run of its own, and the run's end.

    The recipe is the project, unless the user's environment names one for wandb. Runs are named by
    spec, lr and seed, and by a word that no other has: rows may share all three, and a trial may
    run a second time. wandb groups them by spec; TensorBoard has a folder for each spec. Where
    wandb itself fails, the trial goes on and the worker's log tells why.
    """
    if not setup:
        yield {"report_to": "none"}
        return
    name = f"{run_name(trial['spec'], trial['lr'], trial['seed'])} {uuid.uuid4().hex[:6]}"
    spec, _, rest = name.partition(" ")
    folders = [re.sub(r"[^A-Za-z0-9.+@_-]+", "-", part) for part in (spec, rest)]
    before = os.environ.get(_TENSORBOARD_FOLDER)
    os.environ[_TENSORBOARD_FOLDER] = os.path.join(setup["folder"], *folders)
    trackers = list(setup["to"])
    # The Trainer takes a run that has begun for its own. One that it began would be of the group
    # that wandb read from the environment at the worker's first trial.
    reports = "wandb" in trackers and os.environ.get("RANK", "0") == "0"
    if reports and not _begin_wandb_run(setup["project"], trial["spec"], name):
        trackers.remove("wandb")
    try:
        yield {
            "report_to": trackers or "none",
            "run_name": name,
            "project": setup["project"],
            "trackio_static_space_id": False,
        }
    finally:
        if before is None:
            del os.environ[_TENSORBOARD_FOLDER]
        else:
            os.environ[_TENSORBOARD_FOLDER] = before
        if reports:
            _end_wandb_run()


def _begin_wandb_run(project: str, group: str, name: str) -> bool:
    """Whether there is one now: where wandb does not answer, it keeps the run in its folder."""
    wandb: Any = import_module("wandb")
    run = {"project": os.environ.get("WANDB_PROJECT", project), "group": group, "name": name}
    if not _IS_WANDB_SILENT.is_set():
        try:
            wandb.init(**run)
            return True
        except (wandb.Error, OSError):
            traceback.print_exc()
            print(
                "wandb does not answer: the runs of this worker stay in wandb's folder from here "
                "on; wandb sync sends them"
            )
            _IS_WANDB_SILENT.set()
    try:
        wandb.init(**run, mode="offline")
    except (wandb.Error, OSError):
        traceback.print_exc()
        return False
    return True


def _end_wandb_run() -> None:
    """Otherwise the next trial's values would go on in this one's run."""
    wandb: Any = import_module("wandb")
    try:
        wandb.finish()
    except (wandb.Error, OSError):
        # The trial has its result, and its tracker is out of reach.
        traceback.print_exc()


def _is_wandb_usable() -> bool:
    """Whether a run needs nobody to type a key."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    wandb: Any = import_module("wandb")
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    return server in known
