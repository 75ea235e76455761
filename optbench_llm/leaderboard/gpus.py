"""Which GPUs of this machine a worker uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache

_ASK = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from optbench_llm.devices import gpus; print(json.dumps(gpus()))"
)


def own_gpus(number: int, workers: int, processes: int) -> dict[str, str]:
    """The variable that lets worker ``number``, from 1, see only its own GPUs; none without GPUs.

    There is one for each of the worker's ``processes``, of those that the user lets this process
    see. A Trainer that sees more than its own would spread larger batches over them. Workers of one
    process share GPUs that are fewer than they. It must be in the environment that the worker
    starts with: libraries look at it while they load.

    Raises:
        ValueError: workers of several processes, and not a GPU for each process.
    """
    variable, count = installed_gpus()
    if count == 0:
        return {}
    if processes > 1 and workers * processes > count:
        needed = f"{workers} workers of {processes} processes each need {workers * processes} GPUs"
        raise ValueError(
            f"processes_per_trial: {needed}, and this machine has {count}; lower --workers or "
            "processes_per_trial"
        )
    names = _names(variable, count, os.environ)
    first = (number - 1) * processes % count
    return {variable: ",".join(names[first : first + processes])}


@cache
def installed_gpus() -> tuple[str, int]:
    """See `optbench_llm.devices.gpus`; another process is asked, so that this one needs no torch.

    Raises:
        ValueError: torch cannot be loaded.
    """
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(sys.path)], capture_output=True, text=True
    )
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise ValueError(f"torch cannot tell which GPUs there are: {reason}")
    variable, count = json.loads(asked.stdout.splitlines()[-1])
    return variable, count


def _names(variable: str, count: int, environment: Mapping[str, str]) -> list[str]:
    """What ``variable`` calls the GPUs to be dealt out: their numbers, or what the user wrote."""
    chosen = environment.get(variable)
    if chosen is None and variable == "HIP_VISIBLE_DEVICES":
        # ROCm heeds CUDA's variable as well, but numbers afresh what its own lower layer lets see.
        chosen = environment.get("CUDA_VISIBLE_DEVICES")
        chosen = None if "ROCR_VISIBLE_DEVICES" in environment else chosen
    if not chosen:
        return [str(i) for i in range(count)]
    return [name.strip() for name in chosen.split(",")][:count]
