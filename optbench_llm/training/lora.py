"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) through peft."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftMixedModel, PeftModel, get_peft_model
from transformers import PreTrainedModel


def with_lora(
    model: PreTrainedModel,
    r: int,
    alpha: int | None,
    target_modules: Sequence[str] | None,
    *,
    seed: int,
) -> PeftModel | PeftMixedModel:
    """Freeze the model and put trainable adapters of rank ``r`` into it.

    ``alpha`` None means ``2 r``; ``target_modules`` None the ones that peft knows for this
    architecture; ``seed`` decides the adapters' first weights. Raises ValueError for a rank below
    1 and for modules that the model lacks.
    """
    if r < 1:
        raise ValueError(f"lora_r={r}: expected a rank of 1 or more")
    config = LoraConfig(
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        target_modules=list(target_modules) if target_modules else None,
        task_type="CAUSAL_LM",
        # GPT-2's Conv1D stores weights as (in, out); peft sees that itself but warns.
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)
