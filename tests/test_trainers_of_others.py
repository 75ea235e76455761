"""Any optimizer in trainers that others wrote: TRL's SFTTrainer and DPOTrainer, Seq2SeqTrainer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from marks import slow
from training_setup import assert_same_weights, common, weights
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from optbench_llm.models import load_model
from optbench_llm.training import OptBenchMixin, attach

RECORDS = json.loads(Path(__file__).with_name("alpaca_sample.json").read_text("utf-8"))[:24]
#: Passes a step beyond the first; SVRG's also run over the data.
EXTRA_PASSES = {
    "lion@int8": 0,
    "muon": 0,
    "adamw-schedulefree": 0,
    "sam+adamw": 1,
    "sophia": 1 / 3,
    "sophia-h": 1 / 3,
    "adahessian": 1,
}
QUICK = ("adamw-schedulefree", "sam+adamw", "sophia")
STEPS = 3


class MySFTTrainer(OptBenchMixin, SFTTrainer):
    """As a user writes it."""


class MyDPOTrainer(OptBenchMixin, DPOTrainer):
    """As a user writes it."""


class MySeq2SeqTrainer(OptBenchMixin, Seq2SeqTrainer):
    """As a user writes it."""


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return common(
        folder, max_steps=STEPS, gradient_accumulation_steps=2, learning_rate=1e-3,
        per_device_train_batch_size=2, **changes,
    )  # fmt: skip


def sft(folder: Path, kind: type[SFTTrainer]) -> SFTTrainer:
    """Prompts and completions, tokenised by TRL itself."""
    base = load_model("optbench:tiny-gpt2")
    data = Dataset.from_list(
        [{"prompt": r["instruction"] + "\n", "completion": r["output"]} for r in RECORDS]
    )
    return kind(
        model=base.model,
        args=SFTConfig(**settings(folder, max_length=64)),
        train_dataset=data,
        processing_class=base.tokenizer,
    )


def dpo(folder: Path, kind: type[DPOTrainer]) -> DPOTrainer:
    """The record's own answer before the next record's."""
    base = load_model("optbench:tiny-gpt2")
    pairs = zip(RECORDS, RECORDS[1:] + RECORDS[:1], strict=True)
    data = Dataset.from_list(
        [
            {"prompt": r["instruction"] + "\n", "chosen": r["output"], "rejected": s["output"]}
            for r, s in pairs
        ]
    )
    return kind(
        model=base.model,
        args=DPOConfig(**settings(folder, max_length=64)),
        train_dataset=data,
        processing_class=base.tokenizer,
    )


def seq2seq(folder: Path, kind: type[Seq2SeqTrainer]) -> Seq2SeqTrainer:
    """A T5 of one layer."""
    torch.manual_seed(0)
    base = load_model("optbench:tiny-gpt2")
    config = T5Config(
        vocab_size=len(base.tokenizer), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2,
        pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    encode = base.tokenizer
    encode.pad_token = encode.eos_token
    rows = [
        {
            "input_ids": encode(r["instruction"])["input_ids"][:32],
            "labels": encode(r["output"])["input_ids"][:32],
        }
        for r in RECORDS
    ]
    return kind(
        model=model,
        args=Seq2SeqTrainingArguments(**settings(folder)),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(encode, model=model, pad_to_multiple_of=8),
    )


TRAINERS = {
    "SFTTrainer": (sft, SFTTrainer, MySFTTrainer),
    "DPOTrainer": (dpo, DPOTrainer, MyDPOTrainer),
    "Seq2SeqTrainer": (seq2seq, Seq2SeqTrainer, MySeq2SeqTrainer),
}
#: What differs from run to run whatever is trained.
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def trained(folder: Path, make: Any, kind: type[Any], spec: str, **hyperparameters: Any) -> Any:
    torch.manual_seed(0)
    run = make(folder, kind)
    attach(run, spec, **hyperparameters)
    run.train()
    return run


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *(
            pytest.param("SFTTrainer", spec, marks=[] if spec in QUICK else pytest.mark.slow)
            for spec in (*EXTRA_PASSES, "svrg+sgd")
        ),
        ("DPOTrainer", "lion@int8"),
        *(
            pytest.param("DPOTrainer", spec, marks=pytest.mark.slow)
            for spec in ("sam+adamw", "adahessian", "svrg+sgd")
        ),
        ("Seq2SeqTrainer", "svrg+sgd"),
        *(
            pytest.param("Seq2SeqTrainer", spec, marks=pytest.mark.slow)
            for spec in ("muon", "sam+adamw", "sophia")
        ),
    ],
)
def test_it_trains_with_any_optimizer(tmp_path, name, spec):
    """Attached to an instance, which stays one of its class; further passes are counted."""
    make, stock, _ = TRAINERS[name]
    run = trained(tmp_path, make, stock, spec)
    assert isinstance(run, stock)
    losses = run.measurements.losses
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    before = weights(make(tmp_path, stock).model)
    assert any(not torch.equal(v, before[n]) for n, v in weights(run.model).items())
    epoch = math.ceil(len(run.get_train_dataloader()) / 2)
    extra = EXTRA_PASSES.get(spec, (epoch + STEPS - 1) / STEPS)
    if spec in ("sophia-h", "adahessian") and run.accelerator.mixed_precision == "bf16":
        extra *= 2  # TRL's default, whose gradients are too coarse to take differences of
    assert run.measurements.extra_passes / STEPS == pytest.approx(extra)


@pytest.mark.parametrize("name", ["SFTTrainer", *slow("DPOTrainer", "Seq2SeqTrainer")])
def test_a_subclass_with_the_mixin_gives_the_same_run(tmp_path, name):
    """As a user writes it: class MySFTTrainer(OptBenchMixin, SFTTrainer)."""
    make, stock, mine = TRAINERS[name]
    attached, mixed = (trained(tmp_path, make, kind, "sam+adamw") for kind in (stock, mine))
    assert_same_weights(weights(attached.model), weights(mixed.model))
    assert attached.measurements.losses == mixed.measurements.losses


def test_labels_cannot_be_drawn_where_the_loss_is_not_of_labels(tmp_path):
    """DPO compares answers: Sophia-G has nothing to sample, Sophia-H has."""
    with pytest.raises(ValueError, match=r"draws labels.*have none.*use sophia-h"):
        trained(tmp_path, dpo, DPOTrainer, "sophia")


@pytest.mark.parametrize("name", ["SFTTrainer", *slow("DPOTrainer", "Seq2SeqTrainer")])
def test_further_passes_leave_its_logs_alone(tmp_path, name):
    """SAM without a radius logs what its base does: rewards, tokens seen, entropies, lengths."""
    make, stock, _ = TRAINERS[name]
    plain = trained(tmp_path, make, stock, "adamw")
    sam = trained(tmp_path, make, stock, "sam+adamw", rho=0.0)
    for one, other in zip(plain.state.log_history, sam.state.log_history, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMES} == {
            k: v for k, v in other.items() if k not in TIMES
        }


def test_a_trainer_that_makes_its_own_batches_is_refused(tmp_path):
    """Online RL generates while it prepares inputs: there is no batch to take again."""
    base = load_model("optbench:tiny-gpt2")
    run = GRPOTrainer(
        model=base.model,
        reward_funcs=lambda completions, **kwargs: [float(len(c)) for c in completions],
        args=GRPOConfig(
            **common(tmp_path, num_generations=2, per_device_train_batch_size=2),
        ),
        train_dataset=Dataset.from_list([{"prompt": r["instruction"]} for r in RECORDS]),
        processing_class=base.tokenizer,
    )
    attach(run, "sam+adamw")
    with pytest.raises(ValueError, match=r"GRPOTrainer makes its batches itself.*such as adamw"):
        run.create_optimizer()
