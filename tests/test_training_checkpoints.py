"""Saving and resuming: an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_setup import (
    Sentences,
    assert_same_weights,
    common,
    stock_trainer,
    tiny_gpt2,
    trainer,
    weights,
)
from transformers import Trainer, TrainerCallback, TrainingArguments

import optbench_llm as ob
from optbench_llm.training import attach
from optbench_llm.training.checkpoints import check_resumable, check_whole, latest_checkpoint
from optbench_llm.training.evaluation import mean_token_loss

SCHEDULE_FREE = "adamw-schedulefree"


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


class Evaluated(TrainerCallback):
    """Keeps the weights that an evaluation ran with."""

    weights: dict[str, torch.Tensor]

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        self.weights = weights(model)


@pytest.mark.parametrize("spec", ["adamw", "adan", SCHEDULE_FREE, "sophia", "lion@int8"])
def test_resumed_run_equals_uninterrupted_run(tmp_path, spec):
    """Weights, losses, batches and counts agree bit for bit, with dropout and evaluations on."""
    settings = {
        "optim": spec, "max_steps": 8, "save_strategy": "steps", "save_steps": 3,
        "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    if spec == "sophia":
        settings["optim_args"] = {"k": 2}
    whole = trainer(tmp_path, tiny_gpt2(dropout=0.1), **settings)
    whole.train()
    resumed = trainer(tmp_path, tiny_gpt2(dropout=0.1), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    assert_same_weights(weights(whole.model), weights(resumed.model))
    for name in ("losses", "tokens", "batches_hash", "extra_passes", "state_bytes"):
        assert getattr(whole.measurements, name) == getattr(resumed.measurements, name), name
    assert len(resumed.measurements.losses) == 8


def test_resume_from_a_stock_trainers_checkpoint_goes_on_saving(tmp_path):
    """A checkpoint without our measurements is taken, and later checkpoints have them."""
    settings = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 2}
    stock = stock_trainer(tmp_path, **settings)
    stock.train()
    ours = trainer(tmp_path, **settings)
    ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(ours.measurements.losses) == 4
    assert_same_weights(weights(stock.model), weights(ours.model))


def test_schedule_free_is_evaluated_and_saved_at_x_and_trained_at_y(tmp_path):
    """The saved and the evaluated weights are x; the point that training goes on from is y."""
    run = trainer(
        tmp_path, optim=SCHEDULE_FREE, learning_rate=1e-2, save_strategy="steps", save_steps=6
    )
    run.train()
    at_x = weights(run.model)
    run.optimizer.train()
    at_y = weights(run.model)
    assert any(not torch.equal(at_x[name], at_y[name]) for name in at_x)

    checkpoint = saved_weights(tmp_path / "checkpoint-6")
    assert_same_weights(at_x, {name: checkpoint[name] for name in at_x})
    run.save_model(str(tmp_path / "final"))
    final = saved_weights(tmp_path / "final")
    assert_same_weights(at_x, {name: final[name] for name in at_x})

    run.optimizer.train()
    mean_token_loss(run, run.eval_dataset)
    assert_same_weights(at_x, weights(run.model))
    run.optimizer.train()
    evaluated = Evaluated()
    run.add_callback(evaluated)
    run.evaluate()
    assert_same_weights(at_x, evaluated.weights)


def test_schedule_free_training_is_not_moved_by_evaluating_and_saving(tmp_path):
    """Going to x and back any number of times leaves the run as it was."""
    plain = trainer(tmp_path / "plain", optim=SCHEDULE_FREE, learning_rate=1e-2)
    plain.train()
    disturbed = trainer(
        tmp_path / "disturbed", optim=SCHEDULE_FREE, learning_rate=1e-2,
        save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    disturbed.train()
    assert plain.measurements.losses == disturbed.measurements.losses
    assert_same_weights(weights(plain.model), weights(disturbed.model))


def test_best_model_is_not_overwritten_by_the_last_one(tmp_path):
    """load_best_model_at_end leaves the best x in the model; here the highest loss is "best"."""
    run = trainer(
        tmp_path, optim=SCHEDULE_FREE, learning_rate=1e-2, save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, greater_is_better=True,
    )  # fmt: skip
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.name != "checkpoint-6"
    saved = saved_weights(best)
    model = weights(run.model)
    assert_same_weights(model, {name: saved[name] for name in model})


def test_latest_checkpoint_passes_over_what_a_kill_cut_short(tmp_path):
    """Incomplete checkpoints and one at the last step are no place to go on from."""
    run = trainer(tmp_path, save_strategy="steps", save_steps=2)
    run.train()
    assert latest_checkpoint(tmp_path).name == "checkpoint-4"
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert latest_checkpoint(tmp_path).name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    assert latest_checkpoint(tmp_path) is None


def test_attached_trainer_saves_at_x(tmp_path):
    """attach brings the same care for schedule-free weights to a stock Trainer."""
    run = stock_trainer(tmp_path)
    attach(run, SCHEDULE_FREE, lr=1e-2)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    saved = saved_weights(tmp_path / "saved")
    at_x = weights(run.model)
    assert_same_weights(at_x, {name: saved[name] for name in at_x})
    run.optimizer.train()
    assert any(not torch.equal(at_x[name], value) for name, value in weights(run.model).items())


def test_eval_loss_does_not_depend_on_the_batch_size(tmp_path):
    """mean_token_loss weighs tokens, however they are batched, and draws no random numbers."""
    losses = []
    for size in (3, 16):
        run = trainer(tmp_path, per_device_eval_batch_size=size)
        state = torch.get_rng_state()
        losses.append(mean_token_loss(run, Sentences(16, seed=1)))
        assert torch.equal(state, torch.get_rng_state())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_that_was_cut_short_is_named(tmp_path, name):
    """Before anything is loaded: the model stays what it was."""
    settings = {"optim": "adamw", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, tiny_gpt2(), **settings).train()
    file = tmp_path / "checkpoint-2" / name
    file.write_bytes(file.read_bytes()[:-1])
    resumed = trainer(tmp_path, tiny_gpt2(), **settings)
    before = weights(resumed.model)
    with pytest.raises(ValueError, match=rf"resume from .*checkpoint-2: its {name} is damaged"):
        resumed.train(resume_from_checkpoint=str(file.parent))
    assert_same_weights(weights(resumed.model), before)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("spec", ["adan", "torch:AdamW"])
def test_a_checkpoint_without_what_a_run_goes_on_with_is_refused(tmp_path, spec, name):
    """transformers would begin that part anew without a word; the model stays what it was."""
    settings = {"optim": spec, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, tiny_gpt2(), **settings).train()
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / name).unlink()
    resumed = trainer(tmp_path, tiny_gpt2(), **settings)
    before = weights(resumed.model)
    with pytest.raises(ValueError, match=rf"checkpoint-2: it lacks {name},"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_weights(weights(resumed.model), before)
    with pytest.raises(ValueError, match=rf"checkpoint-2: it lacks {name},"):
        check_resumable(checkpoint)


def test_a_checkpoint_of_weights_alone_is_refused_and_says_what_wrote_it(tmp_path):
    settings = {"optim": "adan", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, save_only_model=True, **settings).train()
    with pytest.raises(ValueError, match=r"lacks optimizer.pt, scheduler.pt.*save_only_model"):
        trainer(tmp_path, **settings).train(resume_from_checkpoint=True)


def test_a_run_that_scales_its_loss_needs_the_scale(tmp_path):
    """fp16's scaler is a file of its own."""
    trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    check_whole(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"lacks scaler.pt"):
        check_whole(tmp_path / "checkpoint-2", scales_loss=True)


def test_a_plain_trainer_that_saves_schedule_free_weights_at_y_is_told(tmp_path):
    """It never calls eval() before saving; attach does."""
    words = "call optimizer.eval"
    model = tiny_gpt2()
    plain = Trainer(
        model=model, train_dataset=Sentences(),
        args=TrainingArguments(**common(tmp_path, save_strategy="steps", save_steps=3)),
        optimizers=(ob.create_optimizer(model, SCHEDULE_FREE), None),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=words) as told:
        plain.train()
    assert sum(words in str(one.message) for one in told) == 1
    attached = stock_trainer(tmp_path, save_strategy="steps", save_steps=3)
    attach(attached, SCHEDULE_FREE, lr=1e-2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*" + words)
        attached.train()
