"""A recipe that takes a moment, and the command line as users run it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.trial import TrialSpec

RECIPE = """\
name: mini
version: 1
description: The embedded model for a few steps.
model: optbench:tiny-gpt2
data: {source: optbench:pydocs, prompt: inst, block_size: 64}
training:
  max_steps: %s
  batch_size: 2
  weight_decay: null
  eval_batch_size: 4
  max_eval_blocks: 4
seeds: [42]
optimizers: [%s]
limits: {trial_timeout_s: %s}
"""
COMMAND = [sys.executable, "-m", "optbench_llm", "leaderboard"]
# What trials need not fight over: two threads of one small model wait more than they compute.
ENVIRONMENT = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


def write_recipe(
    folder: Path, *optimizers: str, max_steps: int = 3, timeout_s: float = 120
) -> Path:
    """A recipe file with these rows, YAML pieces such as ``lion`` or ``{spec: sgd, lr: 1}``."""
    path = folder / "mini.yaml"
    path.write_text(RECIPE % (max_steps, ", ".join(optimizers), timeout_s), encoding="utf-8")
    return path


def leaderboard(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``optbench-llm leaderboard`` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **(environment or {})},
        timeout=300,
    )


def start_leaderboard(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``optbench-llm leaderboard`` and leave it running."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **(environment or {})},
    )


def rows(store: Path) -> dict[str, dict[str, Any]]:
    """The rows of ``leaderboard.json`` by optimizer."""
    board = json.loads((store / "leaderboard.json").read_text())
    return {row["optimizer"]: row for row in board["rows"]}


def losses(store: Path, optimizer: str) -> list[float]:
    """The stored loss of every step of one trial."""
    (path,) = (store / "trials").glob(f"{optimizer}-{'?' * 12}/curves.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["losses"]


class Listed:
    """A source of these trials, each once, in their order."""

    def __init__(self, trials: Iterable[TrialSpec]) -> None:
        self._left = deque(trials)

    def take(self, worker: int) -> TrialSpec | None:
        return self._left.popleft() if self._left else None

    def waiting(self) -> int:
        return len(self._left)


def trials_of(plan: Plan) -> list[TrialSpec]:
    """The trials of a plan that depend on no results."""
    return [trial for entry, _ in plan.entries() for trial in plan.row(entry, {}).trials]
