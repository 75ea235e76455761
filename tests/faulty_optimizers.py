"""SGD that goes wrong in the last process of a trial at its second step."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch


class Faulty(torch.optim.SGD):
    """Calls ``fault`` once, where it is to."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == 2 and os.environ.get("RANK", "1") == "1":
            self.fault()
        return super().step(closure)

    def fault(self) -> None:
        raise NotImplementedError


class OutOfMemory(Faulty):
    def fault(self) -> None:
        torch.empty(2**60)


class Killed(Faulty):
    def fault(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Faulty):
    def fault(self) -> None:
        time.sleep(600)
