"""Random numbers of programs, apart from those of the run."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

RandomState = tuple[Tensor, ...]


def random_state(device: torch.device) -> RandomState:
    """The state of the CPU's random numbers, and of the device's where it is another one."""
    own = () if device.type == "cpu" else (_generators(device).get_rng_state(*_of(device)),)
    return (torch.get_rng_state(), *own)


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Go on from a state of :func:`random_state`."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        _generators(device).set_rng_state(state[1], *_of(device))


def _generators(device: torch.device) -> Any:
    """Where torch keeps the random numbers of this kind of device."""
    return torch.get_device_module(device)


def _of(device: torch.device) -> tuple[torch.device, ...]:
    """How to name a device there; a Mac has one and no name for it."""
    return () if device.type == "mps" else (device,)


class RandomStream:
    """Random numbers from a seed; entered again they go on, and those outside are left alone."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        self._outside: RandomState = ()
        self._state: RandomState | None = None

    def __enter__(self) -> None:
        self._outside = random_state(self._device)
        if self._state is None:
            torch.manual_seed(self._seed)
        else:
            set_random_state(self._state, self._device)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state = random_state(self._device)
        set_random_state(self._outside, self._device)


def seed_of(*key: int) -> int:
    """One 63-bit seed from several numbers, the same on every machine."""
    seed = 0
    for number in key:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return seed
