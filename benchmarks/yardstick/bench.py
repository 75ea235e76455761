"""GPT-2's parameters with random gradients: what every optimizer is stepped over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.initialization import no_init_weights

#: What departs from ``GPT2Config()``. Parameters: 124,439,808, 354,823,168 and 1,055,488.
SIZES: dict[str, dict[str, Any]] = {
    "124M": {},
    "1M": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 1024},
    "350M": {"n_layer": 24, "n_embd": 1024, "n_head": 16},
}
GRADIENT_SIZE = 1e-3
WEIGHT_SIZE = 0.02


class Bench:
    """A model on a device, and one gradient for each of its parameters."""

    def __init__(self, size: str, device: str = "cpu") -> None:
        self.size = size
        self.device = device
        with no_init_weights(), torch.device(device):
            model = GPT2LMHeadModel(GPT2Config(**SIZES[size], bos_token_id=0, eos_token_id=0))
        model.tie_weights()
        self.model: nn.Module = model
        self.params = list(self.model.parameters())
        self.elements = sum(p.numel() for p in self.params)
        self.param_bytes = sum(p.numel() * p.element_size() for p in self.params)
        self.reset()
        generator = torch.Generator(device).manual_seed(1)
        self._gradients = [
            torch.empty_like(p.detach()).normal_(0, GRADIENT_SIZE, generator=generator)
            for p in self.params
        ]
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def reset(self) -> None:
        """Put fresh random weights in: optimizers of an earlier row may have led them anywhere."""
        generator = torch.Generator(self.device).manual_seed(0)
        for p in self.params:
            p.normal_(0, WEIGHT_SIZE, generator=generator)

    def largest_weight(self) -> float:
        """The largest absolute value of any weight; NaN if one is."""
        return float(torch.stack([p.detach().abs().max() for p in self.params]).max())

    def hand_out_gradients(self) -> None:
        """Let parameters have the gradients themselves, for optimizers that leave them alone."""
        self._assign(self._gradients)

    def hand_out_copies(self) -> None:
        """Let parameters have fresh copies of the gradients, which may be overwritten."""
        if not self._copies:
            self._copies = [torch.empty_like(g) for g in self._gradients]
        for copy, gradient in zip(self._copies, self._gradients, strict=True):
            copy.copy_(gradient)
        self._assign(self._copies)

    def versions(self) -> list[tuple[int, int]]:
        """Changes wherever an operation of torch has written to a parameter's gradient."""
        return [(id(p.grad), -1 if p.grad is None else p.grad._version) for p in self.params]

    def _assign(self, gradients: Sequence[Tensor]) -> None:
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
