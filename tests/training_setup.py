"""A GPT-2 of 2 layers and 32 units, data for it, and trainers over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from optbench_llm.training import OptBenchArguments, OptBenchTrainer

# Two threads that share cores with other work wait for each other longer than they compute.
torch.set_num_threads(1)

VOCABULARY, LENGTH = 100, 16


class Sentences(torch.utils.data.Dataset):
    """Counting in steps of 1, 2 or 3 from anywhere; labels mask a prompt of varying length."""

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(0, VOCABULARY, (count, 1), generator=generator)
        strides = torch.randint(1, 4, (count, 1), generator=generator)
        self.ids = (starts + strides * torch.arange(LENGTH)) % VOCABULARY
        self.prompts = torch.randint(1, LENGTH // 2, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self.ids[index].clone()
        labels[: self.prompts[index]] = -100
        ids = self.ids[index]
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def tiny_gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_embd=32, n_head=2, n_positions=LENGTH, vocab_size=VOCABULARY,
            bos_token_id=0, eos_token_id=0,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        )
    )  # fmt: skip
    model.loss_type = "ForCausalLM"
    return model


def common(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        **changes,
    }


def trainer(folder: Path, model: Any = None, **changes: Any) -> OptBenchTrainer:
    """An OptBenchTrainer; ``changes`` are arguments."""
    return OptBenchTrainer(
        model=tiny_gpt2() if model is None else model,
        args=OptBenchArguments(**common(folder, **changes)),
        train_dataset=Sentences(),
        eval_dataset=Sentences(16, seed=1),
    )


def stock_trainer(folder: Path, model: Any = None, **changes: Any) -> Trainer:
    """A plain Trainer with plain arguments."""
    return Trainer(
        model=tiny_gpt2() if model is None else model,
        args=TrainingArguments(**common(folder, **changes)),
        train_dataset=Sentences(),
        eval_dataset=Sentences(16, seed=1),
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
