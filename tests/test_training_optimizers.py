"""Optimizers by name under a real Trainer: settings, providers, attach, accumulation, LoRA."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_setup import (
    Sentences,
    assert_same_weights,
    common,
    stock_trainer,
    tiny_gpt2,
    trainer,
    weights,
)
from transformers import Trainer, TrainingArguments

import optbench_llm as ob
from optbench_llm.training import OptBenchArguments, attach
from optbench_llm.training.optimizer_clock import unwrapped


def scheduler_lrs(run: Trainer) -> list[float]:
    return [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ("adamw", {}),
        ("adan", {"learning_rate": 3e-3, "weight_decay": 0.1}),
        ("adan", {"optim_args": {"betas": (0.9, 0.9, 0.9)}}),
        ("sophia", {}),
        ("adamw-schedulefree", {"warmup_steps": 2}),
        ("torch:AdamW", {}),
        ("lion-8bit", {}),
        ("hf:adamw_torch", {"weight_decay": 0.1}),
    ],
)
def test_attach_gives_the_run_that_arguments_give(tmp_path, spec, settings):
    """attach on a stock Trainer and OptBenchArguments train the same weights bit for bit."""
    settings = {"learning_rate": 1e-3, "weight_decay": 0.0, **settings}
    by_arguments = trainer(tmp_path, optim=spec, **settings)
    by_arguments.train()

    stock = {name: value for name, value in settings.items() if name != "optim_args"}
    attached = stock_trainer(tmp_path, **stock)
    attach(attached, spec, **settings.get("optim_args", {}))
    attached.train()

    assert by_arguments.measurements.losses == attached.measurements.losses
    assert by_arguments.effective_hyperparameters == attached.effective_hyperparameters
    assert_same_weights(weights(by_arguments.model), weights(attached.model))


def test_learning_rate_comes_from_argument_then_arguments_then_catalog(tmp_path):
    """The precedence that attach documents; arguments of ours may leave it to the catalog."""
    declared = ob.optimizer_info("adan").lr

    def attached_lr(lr, make=stock_trainer, **settings):
        run = make(tmp_path, max_steps=1, **settings)
        attach(run, "adan", lr=lr)
        return run.create_optimizer().param_groups[0]["lr"]

    assert attached_lr(None, make=trainer) == declared
    assert attached_lr(None, learning_rate=0.03) == 0.03
    assert attached_lr(0.04, learning_rate=0.03) == 0.04


def test_attach_keeps_the_trainers_own_class(tmp_path):
    """A subclass's overrides still run, and isinstance still holds."""

    class Custom(Trainer):
        seen = 0

        def compute_loss(self, *args, **kwargs):
            self.seen += 1
            return super().compute_loss(*args, **kwargs)

    run = Custom(
        model=tiny_gpt2(),
        args=TrainingArguments(**common(tmp_path, max_steps=2)),
        train_dataset=Sentences(),
    )
    attach(run, "lion")
    run.train()
    assert isinstance(run, Custom)
    assert run.seen == 2


def test_attach_refuses_what_would_have_no_effect(tmp_path):
    """After an optimizer is made, and beside settings meant for another optimizer."""
    trained = stock_trainer(tmp_path, max_steps=1)
    trained.train()
    with pytest.raises(ValueError, match="already has an optimizer"):
        attach(trained, "adan")
    with pytest.raises(ValueError, match="adam_beta2"):
        attach(stock_trainer(tmp_path, adam_beta2=0.95), "adan")
    with pytest.raises(ValueError, match="optim_args"):
        attach(stock_trainer(tmp_path, optim_args="momentum=0.9"), "adan")
    with pytest.raises(ValueError, match=r"Nearest: .*\blion\b"):
        attach(stock_trainer(tmp_path), "lionn")


def test_attach_names_what_is_no_trainer():
    """A model in the trainer's place is told apart, and what makes its optimizer."""
    with pytest.raises(ValueError, match=r"to a Linear, expected .*create_optimizer"):
        attach(torch.nn.Linear(2, 2), "muon")


def test_refused_attach_leaves_the_trainer_as_it_was(tmp_path):
    """Its class, its callbacks and its own optimizer are untouched."""
    run = Trainer(
        model=tiny_gpt2(),
        args=TrainingArguments(**common(tmp_path, max_steps=1)),
        train_dataset=Sentences(),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1.0}),
    )
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        attach(run, "adan")
    assert type(run) is Trainer
    run.train()
    assert isinstance(unwrapped(run.optimizer), torch.optim.SGD)


def test_an_unknown_engine_is_refused_where_it_is_given(tmp_path):
    """Before any model is trained, for optimizers of others too."""
    words = "unknown engine 'fast', expected one of auto, eager, compiled"
    with pytest.raises(ValueError, match=words):
        OptBenchArguments(**common(tmp_path, engine="fast"))
    run = stock_trainer(tmp_path)
    with pytest.raises(ValueError, match=words):
        attach(run, "adan", engine="fast")
    assert type(run) is Trainer
    with pytest.raises(ValueError, match=words):
        ob.create_optimizer(run.model, "torch:AdamW", engine="fast")


def test_attach_takes_the_engine_of_the_arguments(tmp_path):
    """Unless it is given one itself; arguments without an engine mean auto."""
    ours = OptBenchArguments(**common(tmp_path, engine="compiled"))
    for args, asked, engine in (
        (ours, None, "compiled"),
        (ours, "eager", "eager"),
        (TrainingArguments(**common(tmp_path)), None, "auto"),
    ):
        run = Trainer(model=tiny_gpt2(), args=args, train_dataset=Sentences())
        attach(run, "adan", engine=asked)
        assert run.choice.engine == engine


class Penalised(Trainer):
    """Computes its own loss: labels taken out of the inputs, a penalty on the embedding added."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        ahead = outputs.logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(ahead, labels[:, 1:].flatten())
        loss = loss + 10 + 1e-2 * self.model.transformer.wte.weight.square().sum()
        return (loss, outputs) if return_outputs else loss


class MixedPenalised(ob.OptBenchMixin, Penalised):
    """The same with the mixin in front."""


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        ("hf:adamw_torch", [1.0] * 6),
        ("sophia", [2.0] + [1.0] * 5),
        ("sam+adamw", [2.0] * 6),
        ("adahessian", [2.0] * 6),
        ("svrg+adamw", [17.0] + [2.0] * 5),
    ],
)
def test_a_trainers_own_loss_is_trained_and_measured(tmp_path, spec, passes):
    """Under attach and the mixin alike; with transformers' AdamW it is the class's own run."""
    built = {"model": tiny_gpt2(), "train_dataset": Sentences()}
    rates = {"learning_rate": 1e-3, "weight_decay": 0.1}
    attached = Penalised(args=TrainingArguments(**common(tmp_path, **rates)), **built)
    attach(attached, spec)
    attached.train()
    built["model"] = tiny_gpt2()
    settings = common(tmp_path, optim=spec, **rates)
    mixed = MixedPenalised(args=OptBenchArguments(**settings), **built)
    mixed.train()
    assert attached.measurements.losses == mixed.measurements.losses
    assert min(mixed.measurements.losses) > 10
    assert_same_weights(weights(attached.model), weights(mixed.model))
    assert attached.measurements.passes == mixed.measurements.passes == passes
    if spec == "hf:adamw_torch":
        built["model"] = tiny_gpt2()
        own = Penalised(
            args=TrainingArguments(**common(tmp_path, optim="adamw_torch", **rates)),
            **built,
        )
        own.train()
        assert_same_weights(weights(own.model), weights(mixed.model))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lion@int8", None),
        ("torch:AdamW", None),
        ("lookahead+lamb", "needs whole tensors .*'tensor'.*DDP"),
        ("schedulefree+sgd", "evaluated and saved at another point.*FSDP2"),
        ("schedulefree:AdamWScheduleFree", "evaluated and saved at another point.*FSDP2"),
    ],
)
def test_specs_that_are_no_rows_are_refused_under_deepspeed_too(tmp_path, spec, words):
    """As the rows are under DeepSpeed itself, before there is an optimizer."""
    run = trainer(tmp_path, optim=spec)
    run.is_deepspeed_enabled = True
    if words is None:
        assert run.create_optimizer() is run.optimizer
        return
    with pytest.raises(ValueError, match=f"{re.escape(repr(spec))}.*{words}"):
        run.create_optimizer()
    assert run.optimizer is None


def test_own_names_of_transformers_train_as_in_the_stock_trainer(tmp_path):
    """hf:NAME and the bare name give the stock Trainer's weights bit for bit."""
    stock = stock_trainer(tmp_path, optim="adamw_torch", learning_rate=1e-3, weight_decay=0.1)
    stock.train()
    for spec in ("hf:adamw_torch", "adamw_torch"):
        ours = trainer(tmp_path, optim=spec, learning_rate=1e-3, weight_decay=0.1)
        ours.train()
        assert_same_weights(weights(stock.model), weights(ours.model))
        assert ours.args.optim == spec


def test_hyperparameters_that_transformers_drops_are_refused(tmp_path):
    """transformers ignores optim_args of AdamW; here that is an error."""
    run = trainer(tmp_path, optim="hf:adamw_torch", optim_args="amsgrad=True")
    with pytest.raises(ValueError, match="amsgrad"):
        run.create_optimizer()
    taken = trainer(tmp_path, optim="hf:adamw_torch", optim_args="betas=(0.8,0.9)")
    assert taken.create_optimizer().param_groups[0]["betas"] == (0.8, 0.9)


def test_effective_hyperparameters_are_recorded_and_logged_per_group(tmp_path, caplog):
    """One record a group: biases and norms do not decay, and the log says the same."""
    with caplog.at_level(logging.INFO, logger="optbench_llm"):
        run = trainer(tmp_path, optim="adan", weight_decay=0.1, max_steps=1)
        run.train()
    decays = [group["weight_decay"] for group in run.effective_hyperparameters]
    assert sorted(decays) == [0.0, 0.1]
    assert all(group["betas"] == (0.98, 0.92, 0.99) for group in run.effective_hyperparameters)
    assert "weight_decay=0.1" in caplog.text
    assert "weight_decay=0.0" in caplog.text


def test_two_ways_to_name_an_optimizer_are_refused(tmp_path):
    """optimizer_cls_and_kwargs beside a spec would leave one of them without effect."""
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        ob.OptBenchTrainer(
            model=tiny_gpt2(),
            args=ob.OptBenchArguments(**common(tmp_path)),
            train_dataset=Sentences(),
            optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1.0}),
        )


@pytest.mark.parametrize("spec", ["sgd", "adamw"])
def test_accumulation_equals_one_big_batch(tmp_path, spec):
    """Two micro-batches of 4 train as one of 8: token-weighted, within fp32 noise."""
    big = trainer(tmp_path, optim=spec, per_device_train_batch_size=8)
    halves = trainer(tmp_path, optim=spec, gradient_accumulation_steps=2)
    for run in (big, halves):
        run.train()
    torch.testing.assert_close(
        torch.tensor(big.measurements.losses),
        torch.tensor(halves.measurements.losses),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    assert big.measurements.tokens == halves.measurements.tokens
    if spec == "sgd":
        for name, value in weights(big.model).items():
            torch.testing.assert_close(value, weights(halves.model)[name], rtol=1e-5, atol=1e-6)


def test_optimizer_sees_clipped_gradients(tmp_path):
    """One SGD step at lr 1 moves the weights by exactly the clipping norm."""
    run = trainer(
        tmp_path, optim="sgd", learning_rate=1.0, weight_decay=0.0, max_grad_norm=0.01,
        max_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    before = weights(run.model)
    run.train()
    after = weights(run.model)
    moved = torch.stack([(after[n] - before[n]).norm() for n in before]).norm()
    torch.testing.assert_close(moved, torch.tensor(0.01), rtol=1e-3, atol=0)


def test_bf16_autocast_trains_fp32_weights(tmp_path):
    """Under bf16 the weights and the state stay fp32 and the losses are those of a bf16 forward."""
    half = trainer(tmp_path, optim="adan", bf16=True)
    full = trainer(tmp_path, optim="adan")
    for run in (half, full):
        run.train()
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert half.measurements.state_bytes == full.measurements.state_bytes
    assert half.measurements.losses != full.measurements.losses
    assert half.measurements.losses == pytest.approx(full.measurements.losses, rel=0.02)


def test_lora_trains_adapters_only(tmp_path):
    """Through peft only the adapters move, and only they have state."""
    model = get_peft_model(tiny_gpt2(), LoraConfig(r=4, task_type="CAUSAL_LM", fan_in_fan_out=True))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = weights(model)
    run = trainer(tmp_path, model=model, optim="adamw", learning_rate=1e-2)
    run.train()
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora" in name for name in moved)
    assert run.measurements.state_bytes == 2 * 4 * trainable


def test_schedule_is_constant_where_the_method_demands_it(tmp_path, caplog):
    """Left alone, schedule-free runs at a constant rate after warm-up, and the log says so."""
    with caplog.at_level(logging.INFO, logger="optbench_llm"):
        run = trainer(tmp_path, optim="adamw-schedulefree", warmup_steps=2, learning_rate=0.01)
        run.train()
    assert scheduler_lrs(run) == pytest.approx([0.0, 0.005, 0.01, 0.01, 0.01, 0.01])
    assert "constant_with_warmup" in caplog.text
    assert run.args.lr_scheduler_type == "auto"


def test_decaying_schedule_that_was_asked_for_is_used_with_a_warning(tmp_path, caplog):
    """The user decides, but hears once that the method wants a constant rate."""
    run = trainer(tmp_path, optim="adamw-schedulefree", lr_scheduler_type="cosine")
    run.train()
    warnings = [r for r in caplog.records if r.name.startswith("optbench_llm")]
    assert len(warnings) == 1
    assert "constant" in warnings[0].getMessage()
    assert scheduler_lrs(run)[-1] < scheduler_lrs(run)[0]


def test_other_optimizers_decay_linearly_by_default(tmp_path):
    """The Trainer's own default schedule."""
    run = trainer(tmp_path, optim="adamw", learning_rate=0.06)
    run.train()
    assert scheduler_lrs(run) == pytest.approx([0.06, 0.05, 0.04, 0.03, 0.02, 0.01])


@dataclass
class CosineArguments(TrainingArguments):
    """Arguments of another library, with a default schedule of their own."""

    lr_scheduler_type: str = "cosine"


def test_attach_keeps_the_default_schedule_of_the_arguments(tmp_path):
    """What an arguments class has by default is used, unless the method demands a constant rate."""
    lrs = {}
    for spec in ("adamw", "adamw-schedulefree"):
        run = Trainer(
            model=tiny_gpt2(),
            args=CosineArguments(**common(tmp_path, learning_rate=0.06)),
            train_dataset=Sentences(),
        )
        attach(run, spec)
        run.train()
        lrs[spec] = scheduler_lrs(run)
    cosine = [0.03 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert lrs["adamw"] == pytest.approx(cosine)
    assert lrs["adamw-schedulefree"] == pytest.approx([0.06] * 6)
