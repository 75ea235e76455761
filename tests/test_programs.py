"""Programs: the Gauss-Newton-Bartlett estimate, and that replays leave the run alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from training_setup import VOCABULARY, Sentences, common, stock_trainer, tiny_gpt2, trainer
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from optbench_llm.programs import PROGRAMS, create_program, sophia_g, trained_positions
from optbench_llm.programs.sophia_g import draw_labels
from optbench_llm.training import OptBenchArguments, OptBenchTrainer, attach
from optbench_llm.training.evaluation import mean_token_loss

EXAMPLES, FEATURES, CLASSES = 24, 4, 5


class SoftmaxRegression(nn.Module):
    """Logits are linear in the inputs, so the Gauss-Newton matrix is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.5 * torch.randn(CLASSES, FEATURES, generator=generator))

    def forward(self, x, labels):
        logits = x @ self.weight.T
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def exact_gauss_newton(self, x: torch.Tensor) -> torch.Tensor:
        """Diagonal of the Gauss-Newton matrix of the mean loss over ``x``."""
        p = (x @ self.weight.T).softmax(-1)
        return (p * (1 - p)).T @ x.square() / len(x)


class Points(torch.utils.data.Dataset):
    """Every third label is masked: it is neither trained nor sampled."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(EXAMPLES, FEATURES, generator=generator)
        self.labels = torch.arange(EXAMPLES) % CLASSES
        self.labels[::3] = -100

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


# A mean over many estimates.
@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_estimate_is_the_gauss_newton_diagonal_on_average(tmp_path, accumulation):
    """The mean of some 400 estimates is within noise of the exact diagonal, accumulated or not.

    One estimate has a relative standard deviation of about 1.4, their mean one of about 0.07.
    """
    beta2, steps = 0.997, 600
    data, model = Points(), SoftmaxRegression()
    run = OptBenchTrainer(
        model=model,
        args=OptBenchArguments(
            **common(
                tmp_path, max_steps=steps, logging_strategy="no", optim="sophia", learning_rate=0.0,
                weight_decay=0.0, optim_args={"k": 1, "betas": (0.9, beta2)},
                per_device_train_batch_size=EXAMPLES // accumulation,
                gradient_accumulation_steps=accumulation,
            )
        ),
        train_dataset=data,
    )  # fmt: skip
    run.train()
    assert run.measurements.extra_passes == steps
    estimate = run.optimizer.state[model.weight]["hessian"] / (1 - beta2**steps)
    exact = model.exact_gauss_newton(data.x[data.labels != -100]).detach()
    ratio = estimate / exact
    assert ratio.mean() == pytest.approx(1, abs=0.06)
    assert ((ratio > 0.6) & (ratio < 1.5)).all()


def test_labels_are_drawn_from_the_softmax():
    """Frequencies of 40,000 draws match the probabilities within five standard deviations."""
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    drawn = draw_labels(logits.expand(40_000, 4))
    frequencies = drawn.bincount(minlength=4) / 40_000
    torch.testing.assert_close(frequencies, logits.softmax(-1), rtol=0, atol=5 * 0.0025)


def untold_gpt2() -> nn.Module:
    """As GPT2LMHeadModel leaves its maker: transformers does not know which loss it has."""
    model = tiny_gpt2()
    model.loss_type = None
    return model


def with_adapters(model: Any) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", fan_in_fan_out=True))


def tiny_bert() -> nn.Module:
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, intermediate_size=32, **config))


def tiny_t5() -> nn.Module:
    config = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    special = {"pad_token_id": 0, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **config, **special))


@pytest.mark.parametrize(
    "make",
    [
        tiny_gpt2,
        untold_gpt2,
        lambda: with_adapters(tiny_gpt2()),
        lambda: with_adapters(untold_gpt2()),
        tiny_bert,
        tiny_t5,
    ],
    ids=["gpt2", "untold-gpt2", "lora", "untold-lora", "masked-lm", "encoder-decoder"],
)
def test_trained_positions_are_those_whose_logits_the_loss_reads(tmp_path, make):
    """The mask, shifted or not, is where the loss has a gradient on the logits."""
    run = stock_trainer(tmp_path, make())
    attach(run, "sophia")
    batch = {k: torch.stack([Sentences()[i][k] for i in range(4)]) for k in ("input_ids", "labels")}
    batch["labels"][0] = batch["input_ids"][0]  # to tell a shift at the first and the last position
    outputs = run.model(**batch)
    (grad,) = torch.autograd.grad(outputs.loss, outputs.logits)
    assert torch.equal(trained_positions(run, batch), grad.abs().sum(-1) > 0)


def test_tokens_and_evaluation_do_not_depend_on_whether_the_loss_is_known(tmp_path):
    """Both count the positions of the loss, under a GPT-2 made by the user as under ours."""
    told, untold = (trainer(tmp_path, make()) for make in (tiny_gpt2, untold_gpt2))
    for run in (told, untold):
        run.train()
    assert told.measurements.tokens == untold.measurements.tokens
    ragged = Sentences(16, seed=1)
    ragged.prompts[:8] = 0
    losses = [mean_token_loss(run, ragged) for run in (told, untold)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_diverging_run_ends_as_diverged_not_in_the_program(tmp_path, accumulation):
    """No labels are drawn from NaN logits: the run stops at the step whose loss shows it."""
    run = trainer(
        tmp_path, optim="sophia", optim_args={"k": 1}, learning_rate=1e30, max_steps=20,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    run.train()
    assert run.measurements.diverged_step == run.state.global_step < 20
    assert run.measurements.extra_passes == run.state.global_step - 1


@pytest.mark.parametrize("spec", ["sophia", "adahessian"])
def test_a_run_that_is_broken_from_the_start_ends_as_diverged(tmp_path, spec):
    """Though there is no estimate yet, without which the optimizer takes no step."""
    model = tiny_gpt2()
    model.transformer.ln_f.weight.data.fill_(math.nan)
    run = trainer(tmp_path, model, optim=spec)
    run.train()
    assert run.measurements.diverged_step == 1


def test_estimate_is_the_same_over_two_micro_batches_as_over_one_big_batch(tmp_path, monkeypatch):
    """With labels that do not depend on chance (the likeliest), N and the Hessian agree."""
    monkeypatch.setattr(sophia_g, "draw_labels", lambda logits: logits.argmax(-1))
    hessians, scales = [], []
    for size, accumulation in ((8, 1), (4, 2)):
        run = trainer(
            tmp_path, optim="sophia", optim_args={"k": 1}, learning_rate=0.0, max_steps=3,
            per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        optimizer, seen = run.create_optimizer(), []
        observe = optimizer.observe
        monkeypatch.setattr(
            optimizer,
            "observe",
            lambda scale, observe=observe, seen=seen: (seen.append(scale), observe(scale)),
        )
        run.train()
        hessians.append([optimizer.state[p]["hessian"] for p in run.model.parameters()])
        scales.append(seen)
    assert scales[0] == scales[1]
    assert sum(scales[0]) == run.measurements.tokens
    for one, other in zip(*hessians, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6 * one.max().item())


class Watching(OptBenchTrainer):
    """Keeps the gradients as clipping finds them and the random state after each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.grads, self.random_states = [], []

    def _clip_grad_norm(self, model):
        self.grads.append([p.grad.clone() for p in model.parameters()])
        self.random_states.append(torch.get_rng_state())
        return super()._clip_grad_norm(model)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_program_leaves_gradients_and_random_stream_alone(tmp_path, accumulation):
    """With dropout on, Sophia's steps see the gradients of a run without a program, bit for bit."""
    runs = []
    for spec in ("sgd", "sophia"):
        settings = {"optim_args": {"k": 1}} if spec == "sophia" else {}
        run = Watching(
            model=tiny_gpt2(dropout=0.1),
            args=OptBenchArguments(
                **common(
                    tmp_path, optim=spec, learning_rate=0.0, max_steps=3,
                    gradient_accumulation_steps=accumulation, **settings,
                )
            ),
            train_dataset=Sentences(),
        )  # fmt: skip
        run.train()
        runs.append(run)
    plain, programmed = runs
    assert programmed.measurements.extra_passes == 3
    assert plain.measurements.losses == programmed.measurements.losses
    for one, other in zip(plain.random_states, programmed.random_states, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(plain.grads, programmed.grads, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("k", "passes"), [(1, 6), (2, 3), (5, 2), (10, 1)])
def test_estimates_come_every_k_steps_from_the_first(tmp_path, k, passes):
    """Six steps hold the estimates of steps 1, 1 + k, ..."""
    run = trainer(tmp_path, optim="sophia", optim_args={"k": k})
    run.train()
    assert run.measurements.extra_passes == passes
    assert run.optimizer.param_groups[0]["observations"] == passes


def test_programs_are_found_by_the_names_that_the_catalog_gives():
    """Every program that a row needs exists; an unknown one is an error."""
    import optbench_llm as ob

    for name in ob.list_optimizers():
        program = ob.optimizer_info(name).program
        assert program is None or program in PROGRAMS
    with pytest.raises(ValueError, match="sophia-g"):
        create_program("hutch")


def test_fp16_is_refused(tmp_path):
    """Scaled gradients would enter the estimate."""
    run = trainer(tmp_path, optim="sophia")
    run.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="bf16"):
        run.create_optimizer()


def test_deepspeed_is_refused(tmp_path):
    """It steps inside backward, before a program could run."""
    for spec in ("sam+adamw", "sophia", "svrg+sgd"):
        run = trainer(tmp_path, optim=spec)
        run.is_deepspeed_enabled = True
        with pytest.raises(ValueError, match=r"does not run under DeepSpeed; use DDP"):
            run.create_optimizer()


@pytest.mark.parametrize("spec", ["sam+adamw", "sophia", "adahessian"])
def test_fsdp_of_accelerate_is_refused(tmp_path, spec):
    """With what to use instead."""
    run = trainer(tmp_path, optim=spec)
    run.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"accelerate's FSDP plugin.*--fsdp2.*or use DDP"):
        run.create_optimizer()


class Forgetful(nn.Module):
    """A loss that grows from pass to pass: it cannot be computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_gpt2()
        self.passes = 0

    def forward(self, input_ids, labels, attention_mask):
        outputs = self.inner(input_ids=input_ids, labels=labels, attention_mask=attention_mask)
        self.passes += 1
        return {"loss": outputs.loss + 0.1 * self.passes, "logits": outputs.logits}


@pytest.mark.parametrize("spec", ["sam+adamw", "sophia-h", "svrg+sgd"])
def test_a_loss_that_cannot_be_computed_again_is_refused(tmp_path, spec):
    """Before anything has moved, with both values."""
    run = trainer(tmp_path, Forgetful(), optim=spec)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    with pytest.raises(RuntimeError, match=r"was \d.* first and \d.* then.*such as adamw"):
        run.train()
    for name, value in run.model.named_parameters():
        assert torch.equal(value, before[name])


def test_a_program_may_use_the_groups_of_the_moment(tmp_path):
    """Schedulers and sweeps write to param_groups: the program reads them."""
    run = trainer(tmp_path, optim="sophia", optim_args={"k": 2}, max_steps=5)
    run.create_optimizer().param_groups[0]["k"] = 4
    run.train()
    assert run.measurements.passes == [2.0, 1.0, 1.0, 1.0, 2.0]
