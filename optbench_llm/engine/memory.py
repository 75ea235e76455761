"""Where tensors lie: whether it is where they were, and whether it is in memory at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
_SHAPE = attrgetter("shape")


class Memory:
    """Where parameters and slots lay when views of them were made; ``slots`` by state and name.

    A few calls for all of them: a loop over small ones would take as long as their step.
    """

    def __init__(self, params: Sequence[Tensor], slots: Sequence[tuple[State, str]]) -> None:
        self._params, self._slots = params, slots
        self._states = [state for state, _ in slots]
        self._names = [name for _, name in slots]
        self._tensors: list[Tensor] = [state[name] for state, name in slots]
        self._all = [*params, *self._tensors]
        self._contiguous = [p for p in params if p.is_contiguous()]
        self._strided = [p for p in params if not p.is_contiguous()]
        self._layout = self._look()

    @classmethod
    def joined(cls, memories: Iterable[Memory]) -> Memory:
        """That of all of them, as it is now."""
        memories = [*memories]
        return cls(
            [*chain.from_iterable(memory._params for memory in memories)],
            [*chain.from_iterable(memory._slots for memory in memories)],
        )

    def holds(self) -> bool:
        """Whether each slot is the tensor that it was, and each tensor lies where and as it did."""
        found = map(dict.get, self._states, self._names)
        return all(map(is_, found, self._tensors)) and self._look() == self._layout

    def _look(self) -> list[Any]:
        # Strides follow from the shape of what is contiguous, which takes less time to ask. Slots
        # are the engine's own: nobody gives one another shape in the same memory.
        return [
            *map(Tensor.data_ptr, self._all),
            *map(_SHAPE, self._params),
            *map(Tensor.is_contiguous, self._contiguous),
            *map(Tensor.stride, self._strided),
        ]


def lies_in_memory(tensors: Sequence[Tensor]) -> bool:
    """Whether the numbers of each tensor are found at its address, where kernels look for them.

    One that wraps others has no address, nor has the result of a collective that is under way; a
    view may have the other sign of what lies there. Those on the meta device have no numbers.
    """
    addressed = 0 not in map(Tensor.data_ptr, tensors) or all(
        tensor.data_ptr() or tensor.is_meta or not tensor.numel() for tensor in tensors
    )
    return addressed and True not in map(Tensor.is_neg, tensors)


def in_memory(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same numbers, in memory: copies of what lies nowhere, which wait for collectives.

    Sparse ones stay: they have no address to ask for, and steps refuse them.
    """
    try:
        if lies_in_memory(tensors):
            return tensors
    except RuntimeError:
        if all(tensor.layout is torch.strided for tensor in tensors):
            raise
    return [
        tensor
        if tensor.layout is not torch.strided or lies_in_memory([tensor])
        else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        for tensor in tensors
    ]
