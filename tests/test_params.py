"""Parameter groups: what decays, what is tied, how weights lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marks import slow
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    DbrxConfig,
    DbrxForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

import optbench_llm as ob
from optbench_llm.params import param_groups
from optbench_llm.rules.rule import Rule

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 16}
LLAMA = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 2}
BERT = {**SMALL, "intermediate_size": 24, "is_decoder": True}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 16, "n_positions": 8}
#: Tokens that the small models' configurations would otherwise put outside their vocabulary.
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
DBRX = {
    "d_model": 16,
    "n_heads": 4,
    "n_layers": 1,
    "max_seq_len": 8,
    "vocab_size": 16,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 50.0},
    "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 1},
}
MPT = {"d_model": 16, "n_heads": 4, "n_layers": 1, "expansion_ratio": 2, "max_seq_len": 8}
#: Model, configuration, settings, key and value heads of its 4 heads.
SPLIT: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2, 4),
    "gpt-bigcode": (GPTBigCodeForCausalLM, GPTBigCodeConfig, {**GPT2, "multi_query": True}, 1),
    "phi3": (Phi3ForCausalLM, Phi3Config, LLAMA, 2),
    "mpt": (MptForCausalLM, MptConfig, {**MPT, "vocab_size": 16}, 4),
    "dbrx": (DbrxForCausalLM, DbrxConfig, DBRX, 2),
    "llama": (LlamaForCausalLM, LlamaConfig, LLAMA, 2),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, LLAMA, 2),
    "bert": (BertLMHeadModel, BertConfig, BERT, 4),
}
INTERLEAVED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, SMALL, "query_key_value"),
    "bloom": (BloomForCausalLM, BloomConfig, {**GPT2, "hidden_size": 16}, "query_key_value"),
    "codegen": (CodeGenForCausalLM, CodeGenConfig, {**GPT2, "rotary_dim": 4}, "qkv_proj"),
    "gpt-bigcode": (
        GPTBigCodeForCausalLM,
        GPTBigCodeConfig,
        {**GPT2, "multi_query": False},
        "c_attn",
    ),
}
OUTPUTS = ("attn.c_proj", "o_proj", "out_proj", "attention.output.dense", "attention.dense")


class ByLayout(Rule):
    """Asks for all that is known of a layout."""

    by_layout = True


def build(model: Any, config: Any, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    made = model(config(**{**TOKENS, **settings})).eval()
    for name, p in made.named_parameters():
        if p.ndim == 2 and ("attn" in name or "attention" in name):
            torch.nn.init.normal_(p)
    return made


def attended(model: Any) -> torch.Tensor:
    """What the first attention's output projection is given, (tokens, heads, rows of a head)."""
    seen: list[torch.Tensor] = []
    output = next(m for name, m in model.named_modules() if name.endswith(OUTPUTS))
    handle = output.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.arange(6)[None])
    handle.remove()
    return seen[0].reshape(6, 4, -1)


def parts_of(model: Any) -> dict[str, tuple[torch.Tensor, int]]:
    """The rows of each query, key and value in the model, and their count of heads."""
    found = {}
    for group in param_groups(model, 0.1, ByLayout):
        if group["role"] == "bias" or not any(heads for _, _, heads in group["parts"]):
            continue
        (p,) = group["params"]
        rows = p.data.t() if group.get("conv1d") else p.data
        pieces = rows.split([size for _, size, _ in group["parts"]])
        for (role, _, heads), piece in zip(group["parts"], pieces, strict=True):
            found[role] = piece, heads
    return found


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


@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
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


@pytest.mark.parametrize("name", SPLIT)
def test_parts_are_the_queries_keys_and_values_of_each_head(name):
    """Without a head's rows, what attention yields changes in that head, or in its group, alone."""
    model, config, settings, shared = SPLIT[name]
    model = build(model, config, settings)
    parts = parts_of(model)
    assert {role: heads for role, (_, heads) in parts.items()} == {
        "query": 4,
        "key": shared,
        "value": shared,
    }
    before = attended(model)
    for role, (rows, heads) in parts.items():
        for head, own in enumerate(rows.split(len(rows) // heads)):
            kept = own.clone()
            own.zero_()
            after = attended(model)
            changed = (after - before).abs().amax((0, 2)) > 1e-4
            group = range(head * 4 // heads, (head + 1) * 4 // heads)
            assert changed.tolist() == [index in group for index in range(4)], (role, head)
            assert role != "value" or not after[:, group].any()
            own.copy_(kept)


def test_the_second_part_of_gpt2s_bias_is_the_keys(gpt2):
    """Softmax does not see a constant added to all keys; it does see one added to the queries."""
    gpt2.eval()
    torch.nn.init.normal_(gpt2.transformer.h[0].attn.c_attn.weight)
    groups = param_groups(gpt2, 0.1, ByLayout)
    (group,) = [group for group in groups if group["role"] == "bias" and group["parts"]]
    assert group["parts"] == (("bias", 8, 0),) * 3
    bias = gpt2.transformer.h[0].attn.c_attn.bias
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        before = gpt2(tokens).logits
        for start, same in ((8, True), (0, False)):
            bias[start : start + 8] += 3.0
            assert torch.allclose(gpt2(tokens).logits, before, atol=1e-5) == same


@pytest.mark.parametrize("name", INTERLEAVED)
def test_interleaved_weights_stay_whole(name):
    """Rows of q, k and v alternate there: without the last third, attention still yields values."""
    model, config, settings, fused = INTERLEAVED[name]
    model = build(model, config, settings)
    for group in param_groups(model, 0.1, ByLayout):
        assert not group["parts"]
    weight = next(p for key, p in model.named_parameters() if key.endswith(f"{fused}.weight"))
    weight.data[len(weight) * 2 // 3 :] = 0.0
    assert attended(model).any()


def roles(model: Any) -> dict[str, str]:
    """The role of each parameter, by its name without layer numbers and wrappers."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: group["role"]
        for group in param_groups(model, 0.1, ByLayout)
        for p in group["params"]
    }


def test_roles_of_gpt2(gpt2):
    """The tied head, positions, norms, biases; every Conv1D is a hidden matrix."""
    found = roles(gpt2)
    assert found["transformer.wte.weight"] == "head"
    assert found["transformer.wpe.weight"] == "embedding"
    for name, role in found.items():
        if name.endswith("bias"):
            assert role == "bias", name
        elif ".ln_" in name:
            assert role == "norm", name
        elif "wte" not in name and "wpe" not in name:
            assert role == "matrix", name


def test_cross_attention_of_gpt2_is_a_query_and_a_fused_key_and_value():
    """There c_attn holds keys and values only, and q_attn the queries."""
    model = GPT2LMHeadModel(GPT2Config(**{**GPT2, **TOKENS}, add_cross_attention=True))
    cross = model.transformer.h[0].crossattention
    found = {
        p: group["parts"] for group in param_groups(model, 0.1, ByLayout) for p in group["params"]
    }
    assert found[cross.q_attn.weight] == (("query", 16, 4),)
    assert found[cross.c_attn.weight] == (("key", 16, 4), ("value", 16, 4))


def test_roles_of_models_with_separate_projections():
    """Llama's head is not tied; Qwen2 has biases on its projections."""
    llama = roles(build(LlamaForCausalLM, LlamaConfig, LLAMA))
    attention = "model.layers.0.self_attn."
    assert llama == {
        "model.embed_tokens.weight": "embedding",
        f"{attention}q_proj.weight": "query",
        f"{attention}k_proj.weight": "key",
        f"{attention}v_proj.weight": "value",
        f"{attention}o_proj.weight": "matrix",
        "model.layers.0.mlp.gate_proj.weight": "matrix",
        "model.layers.0.mlp.up_proj.weight": "matrix",
        "model.layers.0.mlp.down_proj.weight": "matrix",
        "model.layers.0.input_layernorm.weight": "norm",
        "model.layers.0.post_attention_layernorm.weight": "norm",
        "model.norm.weight": "norm",
        "lm_head.weight": "head",
    }
    qwen2 = roles(build(Qwen2ForCausalLM, Qwen2Config, LLAMA))
    extra = qwen2.keys() - llama.keys()
    assert {name: qwen2[name] for name in extra} == {
        f"{attention}{name}_proj.bias": "bias" for name in "qkv"
    }


def test_lora_matrices_are_plain_matrices(gpt2):
    """Neither the fused parts of what they adapt nor heads are theirs; a trained head is a head."""
    lora = get_peft_model(gpt2, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    groups = param_groups(lora, 0.1, ByLayout)
    assert [(group["role"], group["parts"]) for group in groups] == [("matrix", ())]
    assert "conv1d" not in groups[0]
    llama = build(LlamaForCausalLM, LlamaConfig, LLAMA)
    chosen = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    found = roles(get_peft_model(llama, chosen))
    assert sorted(found.values()) == ["embedding", "head", "matrix", "matrix"]


def test_a_rule_for_matrices_needs_one():
    """The error names the model, the rule, what it steps and what was found."""
    model = nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"Sequential .* Muon, .* matrix.* embedding.* adamw"):
        ob.create_optimizer(model, "muon")
    ob.create_optimizer(nn.Sequential(model, nn.Linear(3, 4)), "muon")
    ob.create_optimizer(model, "adam-mini")


def test_a_companion_decays_by_its_own_weight_decay(gpt2):
    """Muon's reaches hidden matrices, the companion's embeddings and head, none the vectors."""
    settings = {"weight_decay": 0.1, "companion_weight_decay": 0.3, "companion_lr": 0.5}
    optimizer: Any = ob.create_optimizer(gpt2, "muon", **settings)
    decays = {group["role"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"matrix": 0.1, "head": 0.3, "embedding": 0.3, "norm": 0.0, "bias": 0.0}
    lrs = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert lrs == {"matrix": 0.02, "head": 0.5, "embedding": 0.5, "norm": 0.5, "bias": 0.5}
