"""Parameters of one optimizer on several devices: what sums over the model, sums over all of them.

No accelerator is needed: tensors that claim to be on one, and the meta device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import optbench_llm as ob
from optbench_llm.engine import stepping

SUM_OVER_THE_MODEL = ["prodigy", "swats"]


class Copies(TorchDispatchMode):
    """The devices that something was copied to the host from."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.device.type == "cpu":
            self.sources += [str(args[0].device)] if args[0].device.type != "cpu" else []
        return found


def test_sums_of_several_devices_come_together_on_the_host():
    """In float64, by one copy from each device however many parameters it has."""
    with FakeTensorMode(), Copies() as seen:
        devices = ("cuda:0", "cuda:1", "cuda:0", "mps", "cuda:1")
        total = stepping._total([torch.ones(2, device=device) for device in devices])
    assert (total.device.type, total.dtype, total.shape) == ("cpu", torch.float64, (2,))
    assert seen.sources == ["cuda:0", "cuda:1", "mps:0"]


@pytest.mark.parametrize("spec", SUM_OVER_THE_MODEL)
def test_all_devices_are_told_what_the_sums_come_to(spec, monkeypatch):
    """A parameter here is stepped as one device's alone would be, given the same sums."""
    known = torch.tensor([3.0, 2.0], dtype=torch.float64)
    summed: list[set[str]] = []

    def total(sums: list[Tensor]) -> Tensor:
        summed.append({own.device.type for own in sums})
        return known

    monkeypatch.setattr(stepping, "_total", total)

    def stepped(*devices: str) -> Tensor:
        params = [nn.Parameter(torch.ones(3, 4, device=device)) for device in devices]
        optimizer: Any = ob.create_optimizer(params, spec, 1.0, engine="eager")
        for _ in range(3):
            for p in params:
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
        return params[0].detach()

    alone, together = stepped("cpu"), stepped("cpu", "meta")
    assert torch.equal(alone, together)
    assert summed == [{"cpu"}] * 3 + [{"cpu", "meta"}] * 3


def test_torch_refuses_a_gradient_on_another_device():
    """As it is assigned, so that no step meets one."""
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="same device"):
        p.grad = torch.ones(3, device="meta")
