"""Stacks of experts: each expert's matrices are stepped as weights of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

import optbench_llm as ob

RULES = [
    n for n in ob.list_optimizers(scope="matrix") if ob.optimizer_info(n).rule_class().by_layout
]
EXPERTS, WIDTH, INNER = 3, 16, 24
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
    "vocab_size": 32,
}


def mixtral() -> Any:
    """Experts as (experts, out, in), gate and up one after the other."""
    model = MixtralForCausalLM(MixtralConfig(**SIZES))
    return model, model.model.layers[0].mlp.experts


def gpt_oss() -> Any:
    """Experts as (experts, in, out), gate and up interleaved, so that they stay one matrix."""
    model = GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=8))
    return model, model.model.layers[0].mlp.experts


def matrices(stack: torch.Tensor, *, turned: bool, halves: int) -> list[torch.Tensor]:
    """Copies of the matrices (out, in) of a stack."""
    found = []
    for expert in stack:
        found += list((expert.t() if turned else expert).chunk(halves))
    return [matrix.clone() for matrix in found]


@pytest.mark.parametrize(("make", "turned", "halves"), [(mixtral, False, 2), (gpt_oss, True, 1)])
@pytest.mark.parametrize("name", RULES)
def test_a_stack_of_experts_takes_the_steps_of_its_matrices(name, make, turned, halves):
    """Orientation, gate and up, and state: all as if each matrix were a parameter."""
    torch.manual_seed(0)
    model, experts = make()
    model.double()
    stacks = {experts.gate_up_proj: halves, experts.down_proj: 1}
    with torch.no_grad():
        for stack in stacks:
            stack.copy_(torch.randn_like(stack))
    apart = [
        torch.nn.Parameter(matrix)
        for stack, count in stacks.items()
        for matrix in matrices(stack.detach(), turned=turned, halves=count)
    ]
    optimizer: Any = ob.create_optimizer(model, name, lr=0.01, engine="eager")
    other: Any = ob.create_optimizer(
        [{"params": apart, "role": "matrix"}], name, lr=0.01, engine="eager"
    )
    for _ in range(4):
        gradients = []
        for stack, count in stacks.items():
            stack.grad = torch.randn_like(stack)
            gradients += matrices(stack.grad, turned=turned, halves=count)
        for p, g in zip(apart, gradients, strict=True):
            p.grad = g
        optimizer.step()
        other.step()
    found = [
        matrix
        for stack, count in stacks.items()
        for matrix in matrices(stack.detach(), turned=turned, halves=count)
    ]
    for p, matrix in zip(apart, found, strict=True):
        assert torch.allclose(p, matrix, rtol=1e-9, atol=1e-9)
    assert optimizer.state_bytes() == other.state_bytes() == other.planned_state_bytes()
