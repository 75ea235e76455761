"""Every row of the catalog in a real Trainer: it trains, resumes bit for bit, and takes LoRA."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_setup import assert_same_weights, tiny_gpt2, trainer, weights

import optbench_llm as ob

ROWS = ob.list_optimizers()
MAX_STEPS = 6


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_and_a_resumed_run_equals_the_uninterrupted_one(tmp_path, name):
    """Every weight moves, losses are finite; from the checkpoint in the middle the same bits."""
    settings = {
        "optim": name,
        "max_steps": MAX_STEPS,
        "save_strategy": "steps",
        "save_steps": 3,
        "lr_scheduler_type": "constant",
    }
    before = weights(tiny_gpt2())
    whole = trainer(tmp_path, tiny_gpt2(dropout=0.1), **settings)
    whole.train()
    after = weights(whole.model)
    assert all(map(math.isfinite, whole.measurements.losses))
    assert [n for n in after if torch.equal(after[n], before[n])] == []
    resumed = trainer(tmp_path, tiny_gpt2(dropout=0.1), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_weights(after, weights(resumed.model))
    assert whole.measurements.losses == resumed.measurements.losses
    assert whole.measurements.state_bytes == resumed.measurements.state_bytes


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_lora_adapters(tmp_path, name):
    """Through peft adapters move, at the latest once B is no longer 0, and nothing else does."""
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", fan_in_fan_out=True, target_modules=["c_attn"])
    model = get_peft_model(tiny_gpt2(), lora)
    before = weights(model)
    trainer(tmp_path, model=model, optim=name, max_steps=MAX_STEPS).train()
    moved = {n for n, value in weights(model).items() if not torch.equal(value, before[n])}
    assert {n for n in before if "lora_B" in n} <= moved <= {n for n in before if "lora_" in n}
