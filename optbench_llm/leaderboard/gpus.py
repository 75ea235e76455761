"""Which GPUs of this machine a worker uses."""

from __future__ import annotations

import os

import torch


def use_own_gpus(number: int, workers: int, processes: int) -> None:
    """Let this process, and what it starts, see only the GPUs of worker ``number``, counted from 1.

    There is one for each of the worker's ``processes``. A Trainer that sees more than its own would
    spread larger batches over them. Workers of one process share GPUs that are fewer than they.

    Raises:
        ValueError: workers of several processes, and not a GPU for each process.
    """
    count = torch.cuda.device_count()
    if count == 0:
        return
    if processes > 1 and workers * processes > count:
        needed = f"{workers} workers of {processes} processes each need {workers * processes} GPUs"
        raise ValueError(
            f"processes_per_trial: {needed}, and this machine has {count}; lower --workers or "
            "processes_per_trial"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    first = (number - 1) * processes % count
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + processes])
