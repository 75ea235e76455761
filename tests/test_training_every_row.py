"""Every row of the catalog in a real Trainer: trains, resumes bit for bit, takes LoRA and bf16."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_setup import assert_same_weights, tiny_gpt2, trainer, weights

import optbench_llm as ob
from optbench_llm.training import OptBenchTrainer

# Four training runs of every row.
pytestmark = pytest.mark.slow

ROWS = ob.list_optimizers()
MAX_STEPS = 6
SETTINGS = {
    "max_steps": MAX_STEPS,
    "save_strategy": "steps",
    "save_steps": MAX_STEPS // 2,
    "lr_scheduler_type": "constant",
}
Run = Callable[[str], OptBenchTrainer]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains a row in fp32 with dropout, once."""

    @cache
    def run(name: str) -> OptBenchTrainer:
        folder = tmp_path_factory.mktemp(name)
        whole = trainer(folder, tiny_gpt2(dropout=0.1), optim=name, **SETTINGS)
        whole.train()
        return whole

    return run


def assert_all_move(run: Any) -> None:
    before, after = weights(tiny_gpt2()), weights(run.model)
    assert [n for n in after if torch.equal(after[n], before[n])] == []
    assert all(map(math.isfinite, run.measurements.losses))


@pytest.mark.shows("one process", "resume")
@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_and_a_resumed_run_equals_the_uninterrupted_one(uninterrupted, name):
    """Every weight moves, losses are finite; from the checkpoint in the middle the same bits."""
    whole = uninterrupted(name)
    after = weights(whole.model)
    assert_all_move(whole)
    folder = whole.args.output_dir
    resumed = trainer(folder, tiny_gpt2(dropout=0.1), optim=name, **SETTINGS)
    resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-{MAX_STEPS // 2}")
    assert_same_weights(after, weights(resumed.model))
    assert whole.measurements.losses == resumed.measurements.losses
    assert whole.measurements.state_bytes == resumed.measurements.state_bytes


@pytest.mark.shows("bf16 autocast")
@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_under_bf16_autocast(tmp_path, uninterrupted, name):
    """Weights stay in fp32 and all move; the losses are those of fp32 up to bf16's rounding."""
    exact = uninterrupted(name).measurements.losses
    settings = {**SETTINGS, "save_strategy": "no", "bf16": True}
    run = trainer(tmp_path, tiny_gpt2(dropout=0.1), optim=name, **settings)
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert_all_move(run)
    rounded = run.measurements.losses
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.01)


@pytest.mark.shows("LoRA")
@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_lora_adapters(tmp_path, name):
    """Through peft adapters move, at the latest once B is no longer 0, and nothing else does."""
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", fan_in_fan_out=True, target_modules=["c_attn"])
    model = get_peft_model(tiny_gpt2(), lora)
    before = weights(model)
    trainer(tmp_path, model=model, optim=name, max_steps=MAX_STEPS).train()
    moved = {n for n, value in weights(model).items() if not torch.equal(value, before[n])}
    assert {n for n in before if "lora_B" in n} <= moved <= {n for n in before if "lora_" in n}
