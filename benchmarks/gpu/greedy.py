"""SGD that wants more memory than there is, at its second step."""

from __future__ import annotations

from typing import Any

import torch

BLOCK_BYTES = 4 << 30
TOO_MUCH = 1 << 60


class Greedy(torch.optim.SGD):
    """Fills a GPU's memory and keeps it; asks of a CPU what it refuses at once."""

    taken: list[torch.Tensor]
    steps = 0

    def step(self, closure: Any = None) -> Any:
        """Step, and take."""
        self.steps += 1
        if self.steps == 2:
            self.taken = []
            device = self.param_groups[0]["params"][0].device
            while True:
                wanted = TOO_MUCH if device.type == "cpu" else BLOCK_BYTES
                self.taken.append(torch.empty(wanted, dtype=torch.uint8, device=device))
        return super().step(closure)
