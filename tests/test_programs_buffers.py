"""Buffers under programs: a batch moves running statistics once, however often it is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_setup import Sentences, common, tiny_gpt2

import optbench_llm as ob
from optbench_llm.training import OptBenchArguments


class Counted(nn.Module):
    """A GPT-2 with what models keep beside weights: statistics, a count, a replaced buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_gpt2()
        self.norm = nn.BatchNorm1d(100)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, input_ids, labels, attention_mask):
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
        logits = self.norm(logits.transpose(1, 2)).transpose(1, 2)
        self.seen += 1
        self.mean = 0.5 * self.mean + 0.5 * logits.detach().square().mean()
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        # What is kept from pass to pass enters the gradient, as a codebook's entries do.
        return {"loss": loss * (1 + self.mean), "logits": logits}


def trained(tmp_path: Any, spec: str, **optim_args: Any) -> nn.Module:
    settings = {"optim": spec, "optim_args": optim_args, "learning_rate": 1e-2, "max_steps": 3}
    args = OptBenchArguments(**common(tmp_path, gradient_accumulation_steps=2, **settings))
    run = ob.OptBenchTrainer(model=Counted(), args=args, train_dataset=Sentences())
    run.train()
    assert run.model is not None
    return run.model


@pytest.mark.parametrize("spec", ["sam+sgd", "svrg+sgd"])
def test_a_program_without_effect_leaves_the_buffers_of_its_base(tmp_path, spec):
    """SAM without a radius and SVRG without a correction are SGD, statistics and all."""
    off = {"rho": 0.0} if spec == "sam+sgd" else {"coefficient": 0.0}
    plain, program = trained(tmp_path, "sgd"), trained(tmp_path, spec, **off)
    expected = dict(plain.named_buffers())
    assert expected["seen"] == 6
    for name, value in program.named_buffers():
        assert torch.equal(value, expected[name]), name
    for (name, one), other in zip(plain.named_parameters(), program.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("spec", ["sam+lion", "sophia", "sophia-h", "adahessian", "svrg+sgd"])
def test_each_batch_is_counted_once(tmp_path, spec):
    model = trained(tmp_path, spec)
    assert model.seen == 6
    assert model.norm.num_batches_tracked == 6
