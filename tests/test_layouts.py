"""The layout of a weight does not change its steps: fused or apart, (in, out) or (out, in)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

import optbench_llm as ob
from optbench_llm.params import param_groups

WIDTH, HEADS, VOCABULARY, POSITIONS, STEPS = 12, 3, 20, 10, 6
COMPANION = {"companion_lr": 0.005, "companion_eps": 1e-4, "companion_weight_decay": 0.2}
PRECONDITIONED = {"precondition_frequency": 2, "weight_decay": 0.1, "eps": 1e-6, **COMPANION}
#: Every rule that must know layouts; lrs that move parameters by some hundredths a step.
SETTINGS: dict[str, dict[str, Any]] = {
    "muon": {"lr": 0.05, "weight_decay": 0.1, **COMPANION},
    "scion": {"lr": 0.01, "radius": 3.0},
    "adam-mini": {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-6},
    "shampoo": {"lr": 0.01, "matrix_eps": 1e-6, **PRECONDITIONED},
    # The gradient of a matrix has no rank for the whole of its longer side, and which eigenvectors
    # SOAP then finds in the null space is for rounding to say: the longer sides are left out.
    "soap": {"lr": 0.01, "max_precond_dim": WIDTH, **PRECONDITIONED},
    "psgd-kron": {"lr": 0.03, "weight_decay": 0.1, **COMPANION},
}
WITH_COMPANION = ("muon", "shampoo", "soap", "psgd-kron")
#: Both sides of a matrix are alike to Shampoo and SOAP: turned weights take turned steps.
ONE_SIDED = ("muon", "scion", "adam-mini")


class Attention(nn.Module):
    """Causal attention with a projection for each of query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One layer of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.fc, self.proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Twin(nn.Module):
    """GPT-2 of nn.Linear layers, made by hand; the head is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(2))
        self.ln_f = nn.LayerNorm(WIDTH)

    def get_output_embeddings(self) -> nn.Module:
        return self.wte

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.t()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_embd=WIDTH,
        n_head=HEADS,
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).double().eval()


def as_twin(model: Any) -> dict[str, Tensor]:
    """GPT-2's parameters under the twin's names and in its layout."""
    named = {}
    for name, p in model.transformer.named_parameters():
        value = p.detach()
        if name.startswith("h.") and value.ndim == 2:
            value = value.t()
        if ".attn.c_attn." in name:
            for letter, part in zip("qkv", value.split(WIDTH), strict=True):
                named[name.replace("c_attn", f"{letter}_proj")] = part
        else:
            own = name.replace("attn.c_proj", "attn.out_proj")
            named[own.replace("mlp.c_fc", "fc").replace("mlp.c_proj", "proj")] = value
    return named


def batches() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield torch.randint(VOCABULARY, (6, POSITIONS), generator=generator)


def train(model: Any, optimizer: Any) -> None:
    """A few steps on random tokens, each from a real backward pass."""
    for tokens in batches():
        output = model(tokens)
        logits = output if isinstance(output, Tensor) else output.logits
        optimizer.zero_grad()
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()


def make_twin(model: Any) -> Twin:
    twin = Twin().double()
    twin.load_state_dict(as_twin(model))
    return twin


def largest_difference(values: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    assert values.keys() == others.keys()
    return max(float((values[name] - others[name]).abs().max()) for name in values)


def test_every_rule_that_must_know_layouts_is_tested_here():
    """A new one cannot go without its twin."""
    own = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule]
    by_layout = {name for name in own if ob.optimizer_info(name).rule_class().by_layout}
    assert by_layout == SETTINGS.keys()


def test_the_twin_is_gpt2():
    """Same logits from the same weights, every weight used."""
    model = gpt2()
    twin, tokens = make_twin(model), next(batches())
    assert torch.allclose(twin(tokens), model(tokens).logits, atol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_gpt2_and_its_twin_of_linear_layers_take_the_same_steps(name):
    """Fused Conv1D weights step as separate nn.Linear ones, after several real backward passes."""
    model = gpt2()
    twin, start = make_twin(model), as_twin(gpt2())
    train(model, ob.create_optimizer(model, name, **SETTINGS[name]))
    train(twin, ob.create_optimizer(twin, name, **SETTINGS[name]))
    ends = {key: p.detach() for key, p in twin.named_parameters()}
    assert all((ends[key] - start[key]).abs().max() > 1e-3 for key in ends if "k_proj.b" not in key)
    assert largest_difference(as_twin(model), ends) < 1e-7


@pytest.mark.parametrize("name", ["muon", "adam-mini"])
def test_compiled_steps_are_the_twins_too(name):
    """Turned and cut weights, heads, one second moment for a norm: the compiled engine as well."""
    model = gpt2()
    twin = make_twin(model)
    train(model, ob.create_optimizer(model, name, engine="compiled", **SETTINGS[name]))
    train(twin, ob.create_optimizer(twin, name, engine="eager", **SETTINGS[name]))
    ends = {key: p.detach() for key, p in twin.named_parameters()}
    assert largest_difference(as_twin(model), ends) < 1e-7


def stepped_without(name: str, *forgotten: str) -> float:
    """How far GPT-2 and its twin part when the optimizer does not know these keys of a group."""
    model = gpt2()
    twin = make_twin(model)
    rule = ob.optimizer_info(name).rule_class()
    decay = SETTINGS[name].get("weight_decay", rule.defaults["weight_decay"])
    groups = [
        {key: value for key, value in group.items() if key not in forgotten}
        for group in param_groups(model, decay, rule)
    ]
    train(model, ob.create_optimizer(groups, name, **SETTINGS[name]))
    train(twin, ob.create_optimizer(twin, name, **SETTINGS[name]))
    ends = {key: p.detach() for key, p in twin.named_parameters()}
    return largest_difference(as_twin(model), ends)


@pytest.mark.parametrize("name", SETTINGS)
def test_forgetting_the_split_would_show(name):
    """Without the parts of c_attn the twin's steps are others; with all keys they are the same."""
    assert stepped_without(name) < 1e-7
    assert stepped_without(name, "parts") > 1e-3


@pytest.mark.parametrize("name", ONE_SIDED)
def test_forgetting_conv1d_would_show(name):
    """Rows and columns mean different things to these rules."""
    assert stepped_without(name, "conv1d", "parts") > 1e-3


@pytest.mark.parametrize("name", WITH_COMPANION)
def test_embeddings_norms_and_biases_take_the_companions_steps(name):
    """They move as AdamW with the companion's settings moves them, on the same gradients."""
    model, plain = gpt2(), gpt2()
    optimizer = ob.create_optimizer(model, name, **SETTINGS[name])
    adamw = ob.create_optimizer(
        param_groups(plain, 0.2),
        "adamw",
        **{
            key.removeprefix("companion_"): value
            for key, value in {**optimizer.rule.settings(), **SETTINGS[name]}.items()
            if key.startswith("companion_")
        },
    )
    hidden = {key for key, p in model.named_parameters() if ".h." in key and p.ndim == 2}
    for tokens in batches():
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        for p, other in zip(model.parameters(), plain.parameters(), strict=True):
            other.grad = p.grad.clone()
        optimizer.step()
        adamw.step()
    for (key, p), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, other, atol=1e-12) == (key not in hidden), key


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def apart(name: str, value: Tensor) -> dict[str, Tensor]:
    """A parameter of Phi-3 as Llama has it: 4 heads of queries, 2 of keys and values, gate, up."""
    if "qkv_proj" in name:
        parts = zip("qkv", value.split([16, 8, 8]), strict=True)
        return {name.replace("qkv", letter): part for letter, part in parts}
    if "gate_up_proj" in name:
        parts = zip(("gate", "up"), value.split(24), strict=True)
        return {name.replace("gate_up", part_name): part for part_name, part in parts}
    return {name: value}


@pytest.mark.parametrize("name", SETTINGS)
def test_phi3_and_llama_take_the_same_steps(name):
    """Fused projections with fewer key and value heads, against separate ones; untied heads."""
    torch.manual_seed(0)
    phi3 = Phi3ForCausalLM(Phi3Config(**SMALL)).double().eval()
    llama = LlamaForCausalLM(LlamaConfig(**SMALL)).double().eval()

    def as_llama() -> dict[str, Tensor]:
        named = [apart(key, p.detach().clone()) for key, p in phi3.named_parameters()]
        return {key: value for part in named for key, value in part.items()}

    start = as_llama()
    llama.load_state_dict(start)
    assert torch.allclose(phi3(next(batches())).logits, llama(next(batches())).logits, atol=1e-10)
    train(phi3, ob.create_optimizer(phi3, name, **SETTINGS[name]))
    train(llama, ob.create_optimizer(llama, name, **SETTINGS[name]))
    ends = {key: p.detach() for key, p in llama.named_parameters()}
    assert all((ends[key] - start[key]).abs().max() > 1e-3 for key in ends)
    assert largest_difference(as_llama(), ends) < 1e-7
