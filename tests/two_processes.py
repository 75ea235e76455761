"""A few processes with the environment that torchrun gives its own, started in a moment.

They are forked from a server that has imported torch and transformers once, which takes longer than
most of what tests have to say to two processes. Tests of the command line and of processes that end
too early start torchrun itself.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

PROCESSES = 2
#: As many of the last characters that each process printed are shown.
SHOWN = 8000
#: What faulthandler lists last, over thousands of characters.
_MODULES = re.compile(r"\nExtension modules: .*\n")
#: With these the server has one thread when it forks, and a fork takes no other's half-done work
#: along: else Arrow's allocator has one of its own, and OpenBLAS one for each core.
_ALONE = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OMP_NUM_THREADS": "1"}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "optbench_llm.finetune",
        "optbench_llm.training",
        "peft",
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.trainer",
    ]
)


def on_two(
    function: Callable[..., Any], *args: Any, timeout_s: float = 400, **environment: str
) -> None:
    """Call ``function(*args)`` in two processes, on the CPU; see :func:`on_processes`."""
    on_processes(PROCESSES, function, *args, timeout_s=timeout_s, **environment)


def on_processes(
    count: int, function: Callable[..., Any], *args: Any, timeout_s: float = 400, **environment: str
) -> None:
    """Call ``function(*args)`` in so many processes, on the CPU.

    Raises AssertionError with what they printed where one fails or all take longer than the limit.
    """
    with patch.dict(os.environ, _ALONE):
        forkserver.ensure_running()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "ACCELERATE_USE_CPU": "true", **environment}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(rank) for rank in range(count)]
        processes = [
            _SERVER.Process(
                target=_enter,
                args=({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, output,
                      function, args),
            )
            for rank, output in enumerate(outputs)
        ]  # fmt: skip
        for process in processes:
            process.start()
        end = time.monotonic() + timeout_s
        while any(process.is_alive() for process in processes):
            if time.monotonic() > end or any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        for process in processes:
            process.join()
        said = [path.read_text(errors="replace") for path in outputs if path.exists()]
    codes = [process.exitcode for process in processes]
    ends = "".join(_MODULES.sub("", text)[-SHOWN:] for text in said)
    assert codes == [0] * count, f"exit codes {codes}\n{ends}"


def _enter(
    environment: dict[str, str], output: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    # A process that dies of a signal tells where, in Python and in C++.
    faulthandler.enable()
    torch._C._set_print_stack_traces_on_fatal_signal(True)
    # What the server has imported stays: no need to look through it for garbage.
    gc.freeze()
    function(*args)
