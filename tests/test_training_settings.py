"""Which settings a run takes where several places could say them, and what its record says."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from training_setup import (
    Sentences,
    common,
    stock_trainer,
    tiny_gpt2,
    trainer,
)
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig

import optbench_llm as ob
from optbench_llm.training import OptBenchArguments, attach


def attached(arguments: Any, spec: str, **given: Any) -> Any:
    """A stock trainer over these arguments with an optimizer attached and made."""
    run: Any = Trainer(model=tiny_gpt2(), args=arguments, train_dataset=Sentences())
    attach(run, spec, **given)
    run.create_optimizer()
    return run


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("optbench_llm") and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("arguments", [TrainingArguments, SFTConfig])
@pytest.mark.parametrize("chosen", ["default", "other"])
def test_attach_trains_at_what_the_arguments_say(tmp_path, caplog, arguments, chosen):
    """Also where it equals the default of their class; then both numbers are named."""
    default = arguments(**common(tmp_path)).learning_rate
    lr = default if chosen == "default" else default * 1.2
    run = attached(arguments(**common(tmp_path, learning_rate=lr, weight_decay=0.0)), "adamw")
    decayed, _ = run.optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"]) == (lr, 0.0)
    (warning,) = said(caplog)
    assert "weight_decay=0.0" in warning
    assert "weight_decay=0.01" in warning
    assert (f"lr={lr!r}" in warning and "lr=0.001" in warning) == (chosen == "default")


def test_what_attach_is_given_counts_and_needs_no_warning(tmp_path, caplog):
    run = attached(
        TrainingArguments(**common(tmp_path)), "adamw", lr=0.03, weight_decay=0.2,
        lr_scheduler_type="cosine",
    )  # fmt: skip
    assert run.optimizer.param_groups[0]["lr"] == 0.03
    assert run.optimizer.param_groups[0]["weight_decay"] == 0.2
    schedule = run.create_scheduler(10)
    assert schedule.lr_lambdas[0].func.__name__.startswith("_get_cosine")
    assert said(caplog) == []


def test_an_lr_that_only_scales_gives_way_to_the_declared_one_if_it_is_a_default(tmp_path, caplog):
    """Prodigy at 5e-5 would not move; one that was surely chosen is taken."""
    default = attached(TrainingArguments(**common(tmp_path)), "prodigy")
    assert default.optimizer.param_groups[0]["lr"] == 1.0
    assert any("lr=1.0" in text and "5e-05" in text for text in said(caplog))
    chosen = attached(TrainingArguments(**common(tmp_path, learning_rate=0.5)), "prodigy")
    assert chosen.optimizer.param_groups[0]["lr"] == 0.5


def test_optimizers_without_weight_decay_take_arguments_that_have_none(tmp_path):
    """The 0.0 of TrainingArguments is no setting that torch's Rprop refuses; 0.1 is."""
    assert attached(TrainingArguments(**common(tmp_path)), "torch:Rprop").optimizer is not None
    with pytest.raises(ValueError, match="'torch:Rprop' has no hyperparameter 'weight_decay'"):
        attached(TrainingArguments(**common(tmp_path, weight_decay=0.1)), "torch:Rprop")


def test_a_default_schedule_gives_way_to_the_methods_and_both_are_named(tmp_path, caplog):
    """linear is what TrainingArguments have by default; attach can be told that it is meant."""
    args = TrainingArguments(**common(tmp_path, learning_rate=0.01, lr_scheduler_type="linear"))
    run = attached(args, "adamw-schedulefree", weight_decay=0.0)
    constant = run.create_scheduler(10)
    assert [constant.lr_lambdas[0](step) for step in (0, 9)] == [1, 1]
    (warning,) = said(caplog)
    assert "'constant'" in warning
    assert "'linear'" in warning
    meant = attached(args, "adamw-schedulefree", lr_scheduler_type="linear")
    assert meant.create_scheduler(10).lr_lambdas[0](9) == pytest.approx(0.1)


def test_an_optimizer_that_the_arguments_name_gives_way_with_a_warning(tmp_path, caplog):
    args = TrainingArguments(**common(tmp_path, optim="adafactor", learning_rate=1e-3))
    attached(args, "lion", weight_decay=0.0)
    assert [text for text in said(caplog) if "optim='adafactor'" in text and "'lion'" in text]


class LearningRates(TrainerCallback):
    """The learning rate asked for, and that of the first group, at each first step."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == 0:
            self.found.append((args.learning_rate, optimizer.param_groups[0]["lr"]))


@pytest.mark.parametrize("way", ["arguments", "attach"])
def test_arguments_that_are_changed_before_training_are_taken(tmp_path, way):
    """As a search of hyperparameters changes them, for a fresh model each time."""
    seen = LearningRates()
    ours = way == "arguments"
    args: Any = OptBenchArguments if ours else TrainingArguments
    kind: Any = ob.OptBenchTrainer if ours else Trainer
    optim = {"optim": "lion"} if ours else {}
    run = kind(
        model_init=lambda: tiny_gpt2(), train_dataset=Sentences(), callbacks=[seen],
        args=args(**common(tmp_path, max_steps=1, learning_rate=1e-4, **optim)),
    )  # fmt: skip
    if not ours:
        attach(run, "lion")
    for lr in (3e-4, 2e-3):
        run.args.learning_rate = lr
        run.train()
        assert run.choice.lr == lr
        assert run.effective_hyperparameters[0]["lr"] == lr
    assert seen.found == [(3e-4, 3e-4), (2e-3, 2e-3)]


def test_changed_arguments_are_checked_when_the_optimizer_is_made(tmp_path):
    run = trainer(tmp_path, optim="lion")
    run.args.optim_args = "betas=(2.0,0.99)"
    with pytest.raises(ValueError, match="betas"):
        run.create_optimizer()
    run.args.optim_args, run.args.adam_beta2 = None, 0.9
    with pytest.raises(ValueError, match=r"adam_beta2=0.9 has no effect"):
        run.create_optimizer()


def test_an_optimizer_that_is_kept_for_a_second_training_says_so(tmp_path, caplog):
    """transformers keeps it together with its state: new arguments come too late."""
    run = trainer(tmp_path, optim="lion", learning_rate=1e-3, max_steps=1)
    run.train()
    run.args.learning_rate = 1e-2
    run.train()
    assert any("lr=0.01" in text and "0.001" in text for text in said(caplog))
    assert run.choice.lr == 1e-3
    assert run.effective_hyperparameters[0]["lr"] == 1e-3


@pytest.mark.parametrize("given", ["optimizer", "scheduler"])
@pytest.mark.parametrize("way", ["arguments", "attach"])
def test_optimizers_beside_a_spec_are_refused(tmp_path, given, way):
    """Whichever stepped, the other would be without effect."""
    model = tiny_gpt2()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(sgd)
    optimizers: Any = (sgd, None) if given == "optimizer" else (None, schedule)
    built = {"model": model, "train_dataset": Sentences(), "optimizers": optimizers}
    words = r"already has an optimizer|optimizers='(SGD|ConstantLR)'"
    if way == "arguments":
        args = OptBenchArguments(**common(tmp_path, optim="lion"))
        with pytest.raises(ValueError, match=words):
            ob.OptBenchTrainer(args=args, **built)
    else:
        run = Trainer(args=TrainingArguments(**common(tmp_path)), **built)
        with pytest.raises(ValueError, match=words):
            attach(run, "lion")


def test_the_logged_and_recorded_lr_is_the_rules_not_its_companions(tmp_path):
    """Muon steps hidden matrices at the lr asked for, AdamW the rest at another."""
    run = trainer(tmp_path, optim="muon", learning_rate=1e-3, lr_scheduler_type="constant")
    run.train()
    logged = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    assert logged == [1e-3] * 6
    assert run.effective_hyperparameters[0]["lr"] == 1e-3


def test_the_record_is_of_what_steps_after_a_resume(tmp_path):
    """torch's checkpoints bring their groups' settings; the numbers asked for are named."""
    saved = {"optim": "adan", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer(tmp_path, learning_rate=1e-3, weight_decay=0.1, **saved).train()
    run = trainer(tmp_path, learning_rate=5e-3, weight_decay=0.3, **saved)
    with pytest.warns(UserWarning, match=r"lr=0.001 in place of 0.005") as told:
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    recorded = run.effective_hyperparameters[0]
    assert (recorded["lr"], recorded["weight_decay"]) == (1e-3, 0.1)
    assert run.state.log_history[-2]["learning_rate"] == 1e-3 / 4
    assert any("weight_decay=0.1 in place of 0.3" in str(one.message) for one in told)


def test_a_resume_with_the_same_settings_is_silent(tmp_path, caplog):
    saved = {"optim": "prodigy", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer(tmp_path, **saved).train()
    caplog.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*goes on with the hyperparameters")
        trainer(tmp_path, **saved).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert said(caplog) == []


def test_a_stock_trainer_with_nothing_attached_is_untouched(tmp_path):
    """An attached optimizer changes one trainer, and not its class."""
    attach(stock_trainer(tmp_path), "lion")
    other = stock_trainer(tmp_path)
    assert type(other) is Trainer
