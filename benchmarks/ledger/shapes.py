"""The models whose shapes are stepped or planned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
SHAPES = {
    "gpt2": GPT2Config(**TOKENS),
    "gpt2, small": GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=5003, **TOKENS),
    "gpt2, tiny": GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=1000, **TOKENS),
    # LlamaConfig's own defaults are the shapes of Llama 7B.
    "llama 7B": LlamaConfig(),
}


def meta_model(name: str) -> nn.Module:
    """A model in fp32 without values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(SHAPES[name], dtype=torch.float32)


def sharded(name: str, processes: int) -> nn.Module:
    """The same, cut by FSDP2 over all processes of the default group."""
    return fully_shard(meta_model(name), mesh=init_device_mesh("cpu", (processes,)))
