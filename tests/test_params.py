"""Parameter groups: what decays, what is tied, how weights lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import optbench_llm as ob
from optbench_llm.params import param_groups


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=32, n_positions=16))


def named(model: nn.Module, groups: list[dict[str, Any]]) -> list[set[str]]:
    names = {p: name for name, p in model.named_parameters()}
    return [{names[p] for p in group["params"]} for group in groups]


def test_biases_and_norms_do_not_decay(gpt2):
    """Everything else does; each parameter is in one group."""
    decay, rest = param_groups(gpt2, 0.1)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    decays, stays = named(gpt2, [decay, rest])
    assert all(name.endswith("bias") or ".ln_" in name for name in stays)
    assert not any(name.endswith("bias") or ".ln_" in name for name in decays)
    assert decays | stays == {name for name, _ in gpt2.named_parameters()}
    assert not decays & stays


def test_tied_embeddings_count_once(gpt2):
    """wte and lm_head are one tensor: stepped once, and its state counted once."""
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    params = [p for group in param_groups(gpt2, 0.1) for p in group["params"]]
    assert len(params) == len(set(params)) == len(list(gpt2.parameters()))
    optimizer: Any = ob.create_optimizer(gpt2, "adamw")
    for p in gpt2.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_bytes() == 8 * sum(p.numel() for p in gpt2.parameters())
    assert optimizer.state[gpt2.lm_head.weight]["step"] == 1


def test_a_weight_decay_of_none_leaves_the_default(gpt2):
    """A provider's own default then holds for the decaying group."""
    decay, rest = param_groups(gpt2, None)
    assert "weight_decay" not in decay
    assert rest["weight_decay"] == 0.0


def test_conv1d_weights_are_marked_where_layout_matters(gpt2):
    """GPT-2's attention and MLP weights are stored (in, out); embeddings are not."""
    groups = param_groups(gpt2, 0.1, ob.optimizer_info("adamp").rule_class())
    marked = [names for names, g in zip(named(gpt2, groups), groups, strict=True) if "conv1d" in g]
    assert len(marked) == 1
    assert len(marked[0]) == 2 * 4
    assert all(".c_" in name and name.endswith("weight") for name in marked[0])
    assert not any("conv1d" in group for group in param_groups(gpt2, 0.1))


def test_only_trainable_parameters_are_taken(gpt2):
    """Under LoRA the adapters alone; a model with nothing to train is named."""
    lora = get_peft_model(gpt2, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    (decay,) = param_groups(lora, 0.1)
    assert all("lora_" in name for name in named(lora, [decay])[0])
    assert len(decay["params"]) == 4
    optimizer: Any = ob.create_optimizer(lora, "adamp")
    lora(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    frozen = gpt2.transformer.wte.weight.detach().clone()
    optimizer.step()
    assert torch.equal(gpt2.transformer.wte.weight, frozen)
    for p in gpt2.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        param_groups(gpt2, 0.1)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("name", ["adamp", "sgdp"])
def test_channels_of_conv1d_are_those_of_its_linear_twin(name, engine):
    """AdamP and SGDP project by output channel: the weight stored (in, out) must not differ."""
    conv, linear = Conv1D(6, 10), nn.Linear(10, 6)
    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    conv.weight.data.copy_(weight)
    linear.weight.data.copy_(weight.t())
    linear.bias.data.copy_(conv.bias.data)
    settings = {"lr": 0.05, "delta": 1.0, "weight_decay": 0.1, "engine": engine}
    optimizers = [ob.create_optimizer(model, name, **settings) for model in (conv, linear)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        g = torch.randn(10, 6, generator=generator)
        g -= 0.95 * weight * (g * weight).sum(0) / (weight * weight).sum(0)
        conv.weight.grad, linear.weight.grad = g, g.t().contiguous()
        conv.bias.grad = linear.bias.grad = torch.ones(6)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(conv.weight.t(), linear.weight, atol=1e-6)
    assert torch.allclose(conv.bias, linear.bias, atol=1e-6)


def test_forgetting_the_layout_would_show():
    """The twin test above can fail: parameters without their model are taken as (out, in)."""
    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    g = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    g -= weight * (g * weight).sum(0) / (weight * weight).sum(0)
    stored, twin = nn.Parameter(weight.clone()), nn.Parameter(weight.t().contiguous())
    stored.grad, twin.grad = g, g.t().contiguous()
    for p in (stored, twin):
        ob.create_optimizer([p], "adamp", lr=0.05, delta=1.0).step()
    assert not torch.allclose(stored.t(), twin, atol=1e-4)
