"""What weight decay shrinks, whoever steps it: matrices, and neither norms, biases nor vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import optbench_llm as ob

#: By element, with 8-bit state, by layout with a companion, wrapped; of torch and bitsandbytes.
SPECS = ("adamw", "lion@int8", "muon", "lookahead+adamw", "torch:AdamW", "lion-8bit")


class Block(nn.Module):
    """Every kind of parameter that a layer may have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.linear = nn.Linear(16, 16)
        self.conv = nn.Conv1d(16, 16, 3)
        self.layer_norm = nn.LayerNorm(16)
        self.rms_norm = nn.RMSNorm(16)
        self.layer_scale = nn.Parameter(torch.full((16,), 0.5))
        self.temperature = nn.Parameter(torch.tensor(0.5))


DECAYS = {"embed.weight", "linear.weight", "conv.weight"}


@pytest.mark.parametrize("spec", SPECS)
def test_norms_biases_and_vectors_are_left_alone(spec):
    """Under gradients of zero weight decay alone moves a weight."""
    torch.manual_seed(0)
    model = Block()
    optimizer: Any = ob.create_optimizer(model, spec, lr=0.1, weight_decay=0.5, engine="eager")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= DECAYS
    assert {"linear.weight", "conv.weight"} <= moved
    after = dict(model.named_parameters())["linear.weight"]
    torch.testing.assert_close(after, before["linear.weight"] * (1 - 0.1 * 0.5))
