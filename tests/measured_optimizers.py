"""SGD whose steps take 0.3 s, and SGD that cannot step."""

from __future__ import annotations

import time
from typing import Any

import torch


class Slow(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        time.sleep(0.3)
        return super().step(closure)


class Broken(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise RuntimeError("broken")
