"""What each weight of a model is to the rules by layout: one table over many kinds of models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn

import optbench_llm as ob
from optbench_llm.params import param_groups
from optbench_llm.rules.rule import Rule

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, "vocab_size": 40}
#: Tokens that the configurations would otherwise put outside the vocabulary.
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
IMAGE = {**SIZES, "image_size": 16, "patch_size": 8, "num_labels": 3}
GPT2 = {
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 40,
    "n_positions": 8,
    "num_labels": 1,
}
BART = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 8,
}
WHISPER = {
    **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
    "num_mel_bins": 8,
    "max_source_positions": 8,
    "max_target_positions": 8,
    "decoder_start_token_id": 0,
}
WAV2VEC2 = {
    **TEXT,
    "conv_dim": (8, 8),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 12,
}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
CLIP = {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}
MAMBA = {"vocab_size": 40, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}


def llama(kind: str = "LlamaForCausalLM", **settings: Any) -> Any:
    return made(kind, TEXT | settings)


def made(kind: str, settings: dict[str, Any]) -> Any:
    model = getattr(hf, kind)
    config = model.config_class(**({} if "text_config" in settings else TOKENS), **settings)
    return model(config)


def lora(kind: str = "LlamaForCausalLM", **settings: Any) -> Any:
    return get_peft_model(llama(kind, num_labels=3), LoraConfig(r=4, **settings))


class Classifier(nn.Module):
    """As people write them: a body of transformers', and layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = made("BertModel", TEXT)
        self.hidden = nn.Linear(16, 12)
        self.out = nn.Linear(12, 3)


class WithValues(nn.Module):
    """TRL's model with a value head."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_model = llama()
        self.v_head = nn.Sequential(nn.Linear(16, 1))


class Wrapper(nn.Module):
    """As DDP and torch.compile hold a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def plain(name: str) -> nn.Module:
    """A convolutional network that is none of transformers'."""
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(3, 8, 3))
    model.add_module("second", nn.Conv2d(8, 8, 3))
    model.add_module(name, nn.Linear(8, 3))
    return model


#: Model, and for each weight that is no ``matrix``, ``query``, ``key``, ``value``, ``bias`` or
#: ``norm`` what it is, by the ends of its name; "matrix" here for those that look like others.
TABLE: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "llama": (llama, {"embed_tokens": "embedding", "lm_head": "head"}),
    "reward model": (
        lambda: llama("LlamaForSequenceClassification", num_labels=1),
        {"embed_tokens": "embedding", "score": "head"},
    ),
    "llama tokens": (
        lambda: llama("LlamaForTokenClassification"),
        {"embed_tokens": "embedding", "score": "head"},
    ),
    "llama spans": (
        lambda: llama("LlamaForQuestionAnswering"),
        {"embed_tokens": "embedding", "qa_outputs": "head"},
    ),
    "mixtral": (
        lambda: made("MixtralForCausalLM", {**TEXT, "num_local_experts": 2}),
        {
            "embed_tokens": "embedding",
            "lm_head": "head",
            "experts.gate_up_proj": "matrix",
            "gate": "matrix",
        },
    ),
    "gpt2 two heads": (
        lambda: made("GPT2DoubleHeadsModel", GPT2),
        {"wte": "head", "wpe": "embedding", "summary": "head"},
    ),
    "gpt2 sequences": (
        lambda: made("GPT2ForSequenceClassification", GPT2),
        {"wte": "embedding", "wpe": "embedding", "score": "head"},
    ),
    "bert sequences": (
        lambda: made("BertForSequenceClassification", TEXT),
        {"_embeddings": "embedding", "classifier": "head", "pooler.dense": "matrix"},
    ),
    "bert tokens": (
        lambda: made("BertForTokenClassification", TEXT),
        {"_embeddings": "embedding", "classifier": "head"},
    ),
    "bert spans": (
        lambda: made("BertForQuestionAnswering", TEXT),
        {"_embeddings": "embedding", "qa_outputs": "head"},
    ),
    "bert masked": (
        lambda: made("BertForPreTraining", TEXT),
        {
            "word_embeddings": "head",
            "position_embeddings": "embedding",
            "token_type_embeddings": "embedding",
            "transform.dense": "matrix",
            "seq_relationship": "head",
        },
    ),
    "roberta": (
        lambda: made("RobertaForSequenceClassification", TEXT),
        {"_embeddings": "embedding", "classifier.dense": "matrix", "out_proj": "head"},
    ),
    "body after head": (
        lambda: made("XLMRobertaForTokenClassification", TEXT),
        {"_embeddings": "embedding", "classifier": "head"},
    ),
    "distilbert": (
        lambda: made(
            "DistilBertForSequenceClassification",
            {"vocab_size": 40, "dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2},
        ),
        {"_embeddings": "embedding", "pre_classifier": "matrix", "classifier": "head"},
    ),
    "t5": (
        lambda: made("T5ForConditionalGeneration", T5),
        {"shared": "head", "relative_attention_bias": "embedding"},
    ),
    "bart": (
        lambda: made("BartForConditionalGeneration", BART),
        {"shared": "head", "embed_positions": "embedding"},
    ),
    "bart sequences": (
        lambda: made("BartForSequenceClassification", BART),
        {
            "shared": "embedding",
            "embed_positions": "embedding",
            "head.dense": "matrix",
            "head.out_proj": "head",
        },
    ),
    "whisper": (
        lambda: made("WhisperForConditionalGeneration", WHISPER),
        {
            "embed_tokens": "head",
            "embed_positions": "embedding",
            "encoder.conv1": "embedding",
            "encoder.conv2": "matrix",
        },
    ),
    "wav2vec2": (
        lambda: made("Wav2Vec2ForCTC", WAV2VEC2),
        {
            "conv_layers.0.conv": "embedding",
            "conv_layers.1.conv": "matrix",
            "masked_spec_embed": "vector",
            "original0": "vector",
            "original1": "matrix",
            "lm_head": "head",
        },
    ),
    "wav2vec2 sequences": (
        lambda: made("Wav2Vec2ForSequenceClassification", WAV2VEC2),
        {
            "conv_layers.0.conv": "embedding",
            "masked_spec_embed": "vector",
            "original0": "vector",
            "projector": "matrix",
            "classifier": "head",
        },
    ),
    "vit": (
        lambda: made("ViTForImageClassification", IMAGE),
        {
            "cls_token": "embedding",
            "position_embeddings": "embedding",
            "patch_embeddings.projection": "embedding",
            "classifier": "head",
        },
    ),
    "vit masked": (
        lambda: made("ViTForMaskedImageModeling", {**IMAGE, "encoder_stride": 8}),
        {
            "_token": "embedding",
            "position_embeddings": "embedding",
            "patch_embeddings.projection": "embedding",
            "decoder.0": "head",
        },
    ),
    "deit": (
        lambda: made("DeiTForImageClassificationWithTeacher", IMAGE),
        {
            "_token": "embedding",
            "position_embeddings": "embedding",
            "patch_embeddings.projection": "embedding",
            "_classifier": "head",
        },
    ),
    "clip": (
        lambda: made("CLIPModel", CLIP),
        {
            "token_embedding": "embedding",
            "position_embedding": "embedding",
            "class_embedding": "vector",
            "patch_embedding": "embedding",
            "_projection": "head",
            "logit_scale": "vector",
        },
    ),
    "siglip2 patches": (
        lambda: made(
            "Siglip2VisionModel", {**SIZES, "num_patches": 4, "patch_size": 4, "image_size": 8}
        ),
        {
            "position_embedding": "embedding",
            "patch_embedding": "embedding",
            "head.probe": "embedding",
        },
    ),
    "resnet": (
        lambda: made(
            "ResNetForImageClassification",
            {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "num_labels": 3},
        ),
        {"embedder.embedder.convolution": "embedding", "classifier.1": "head"},
    ),
    "convnext": (
        lambda: made(
            "ConvNextForImageClassification",
            {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 3},
        ),
        {
            "patch_embeddings": "embedding",
            "dwconv": "matrix",
            "layer_scale_parameter": "vector",
            "classifier": "head",
        },
    ),
    "mamba": (
        lambda: made("MambaForCausalLM", {**MAMBA, "tie_word_embeddings": False}),
        {
            "embeddings": "embedding",
            "conv1d": "matrix",
            "A_log": "vector",
            "mixer.D": "vector",
            "lm_head": "head",
        },
    ),
    "lora": (
        lambda: lora(
            "LlamaForSequenceClassification", target_modules=["q_proj"], task_type="SEQ_CLS"
        ),
        {"score.modules_to_save.default": "head"},
    ),
    "lora saved": (
        lambda: lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        {
            "embed_tokens.modules_to_save.default": "embedding",
            "lm_head.modules_to_save.default": "head",
        },
    ),
    "lora on embeddings": (
        lambda: lora(target_modules=["embed_tokens", "lm_head"]),
        {"embedding_A.default": "embedding", "embedding_B.default": "matrix"},
    ),
    "dora": (
        lambda: lora(target_modules=["q_proj"], use_dora=True),
        {"magnitude_vector.default": "vector"},
    ),
    "new tokens": (
        lambda: lora(target_modules=["q_proj"], trainable_token_indices=[3, 4]),
        {"trainable_tokens_delta.default": "embedding"},
    ),
    "prompt": (
        lambda: get_peft_model(
            llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        ),
        {"prompt_encoder.default.embedding": "embedding"},
    ),
    "prefix": (
        lambda: get_peft_model(
            llama(),
            PrefixTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=3,
                prefix_projection=True,
                encoder_hidden_size=8,
            ),
        ),
        {"prompt_encoder.default.embedding": "embedding", "transform.0": "matrix"},
    ),
    "ia3": (
        lambda: get_peft_model(
            llama(),
            IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ),
        {"ia3_l.default": "vector"},
    ),
    "own head": (
        Classifier,
        {"_embeddings": "embedding", "hidden": "matrix", "out": "head"},
    ),
    "values": (
        WithValues,
        {"embed_tokens": "embedding", "lm_head": "head", "v_head.0": "head"},
    ),
    "wrapped": (
        lambda: Wrapper(Wrapper(llama("LlamaForSequenceClassification"))),
        {"embed_tokens": "embedding", "score": "head"},
    ),
    "wrapped head": (lambda: Wrapper(llama()), {"embed_tokens": "embedding", "lm_head": "head"}),
    "plain": (lambda: plain("head"), {"first": "embedding", "second": "matrix", "head": "head"}),
    "plain wrapped": (lambda: Wrapper(plain("fc")), {"first": "embedding", "fc": "head"}),
    "by channel": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.Conv1d(8, 8, 3, groups=8)),
        {"1": "matrix"},
    ),
    "alone": (lambda: nn.Conv2d(3, 8, 3), {"weight": "matrix"}),
    "plain unknown": (lambda: plain("last"), {"first": "embedding", "last": "matrix"}),
}
HIDDEN = ("matrix", "query", "key", "value", "bias", "norm")


class ByLayout(Rule):
    """Asks for all that is known of a layout."""

    by_layout = True


def groups_of(model: nn.Module, **settings: Any) -> dict[str, dict[str, Any]]:
    """The group of each parameter, by its name."""
    names = {p: name for name, p in model.named_parameters()}
    groups = param_groups(model, 0.1, ByLayout, **settings)
    return {names[p]: group for group in groups for p in group["params"]}


@pytest.mark.parametrize("kind", TABLE)
def test_roles(kind):
    """Every weight that the table names is what it says, and all others are hidden."""
    build, expected = TABLE[kind]
    unseen = set(expected)
    for name, group in groups_of(build()).items():
        ends = [end for end in expected if re.search(rf"{re.escape(end)}(\.weight)?$", name)]
        unseen -= set(ends)
        if ends and not name.endswith("bias"):
            assert group["role"] == expected[ends[0]], name
        else:
            assert group["role"] in HIDDEN, name
    assert not unseen


def test_no_rule_for_matrices_steps_heads_or_tokens():
    """Muon leaves them to AdamW: a first step of its learning rate for each element."""
    model = made("ViTForImageClassification", IMAGE)
    optimizer: Any = ob.create_optimizer(model, "muon", companion_lr=1e-3)
    left = [model.classifier.weight, model.vit.embeddings.cls_token]
    left += [model.vit.embeddings.position_embeddings]
    left += [model.vit.embeddings.patch_embeddings.projection.weight]
    before = [p.detach().clone() for p in left]
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, start in zip(left, before, strict=True):
        assert torch.allclose((p.detach() - start).abs(), torch.tensor(1e-3), rtol=1e-2)


def test_tables_keep_out_of_8_bits_and_layers_do_not():
    """Positions and tokens are looked up as embeddings are; what reads pixels is a dense layer."""
    found = groups_of(made("ViTForImageClassification", IMAGE), mark_embeddings=True)
    marked = {name.rpartition(".")[2] for name, group in found.items() if "embeds" in group}
    assert marked == {"cls_token", "position_embeddings"}


def test_what_reads_pixels_is_a_matrix_to_rules_that_step_it():
    """Scion's radius for embeddings is that of one-hot inputs, which pixels are not."""
    found = groups_of(plain("head"))
    assert found["first.weight"]["parts"] == (("matrix", 8, 0),)
    model = plain("head")
    optimizer: Any = ob.create_optimizer(model, "scion")
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert "momentum_buffer" in optimizer.state[model.get_submodule("first").weight]
    assert "outer_momentum_buffer" in optimizer.state[model.get_submodule("head").weight]


def test_a_position_has_a_block_of_its_own():
    """Adam-mini's block of an embedding is a row of the table, not of the batch of one."""
    model = made("ViTForImageClassification", IMAGE)
    optimizer: Any = ob.create_optimizer(model, "adam-mini")
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    positions = model.vit.embeddings.position_embeddings
    assert optimizer.state[positions]["exp_avg_sq"].shape == (positions.shape[1],)
