"""The processes of one worker: what the first is told, all are told, and they keep step."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1


class Ranks:
    """This process among those of its worker; alone unless torchrun has started it."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._group: Any = None

    def join(self) -> None:
        """Find the others. Imports torch, which takes seconds."""
        if self.count == 1:
            return
        from accelerate import PartialState
        from torch import distributed

        from optbench_llm.devices import gpus

        # What every Trainer of this process then finds; it is never left, only its record is reset.
        PartialState(cpu=gpus()[1] == 0)
        self._group = distributed.new_group(backend="gloo")

    def tell(self, command: Callable[[], Any]) -> Any:
        """In all processes, what ``command`` returns in the first."""
        if self.count == 1:
            return command()
        from torch import distributed

        told = [command() if self.rank == 0 else None]
        distributed.broadcast_object_list(told, src=0, group=self._group)
        return told[0]

    def meet(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier(group=self._group)


def end_with_torchrun(end: Callable[[], None]) -> None:
    """Call ``end`` when standard input, which only the first process reads, closes.

    The parent holds its other side. On Linux the system also kills this process when torchrun's is
    gone, should it be too busy to notice anything.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def watch() -> None:
        closed = select.poll()
        closed.register(sys.stdin, 0)
        closed.poll()
        end()

    threading.Thread(target=watch, daemon=True).start()
