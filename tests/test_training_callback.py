"""OptBenchCallback: what it measures is what happened."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from training_setup import Sentences, common, stock_trainer, tiny_gpt2, trainer
from transformers import TrainerCallback

from optbench_llm.training import OptBenchArguments, OptBenchCallback, run_training


class Poison(TrainerCallback):
    """Makes a weight NaN after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_losses_are_those_that_the_trainer_logs(tmp_path, accumulation):
    """One loss per optimizer step, scaled right under accumulation; their mean is train_loss."""
    run = trainer(tmp_path, gradient_accumulation_steps=accumulation, max_steps=5)
    output = run.train()
    logged = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert run.measurements.losses == pytest.approx(logged, rel=1e-5)
    assert sum(run.measurements.losses) / 5 == pytest.approx(output.training_loss, rel=1e-5)


def test_tokens_and_hash_follow_the_batches_trained(tmp_path):
    """Tokens are the positions of the loss; the hash chains the ids in the order trained."""
    run = trainer(tmp_path, max_steps=3, train_sampling_strategy="sequential")
    run.train()
    data, digest, tokens = Sentences(), b"", 0
    for start in range(0, 12, 4):
        rows = [data[i] for i in range(start, start + 4)]
        tokens += sum(int((row["labels"][1:] != -100).sum()) for row in rows)
        content = torch.stack([row["input_ids"] for row in rows]).numpy().tobytes()
        digest = hashlib.blake2b(digest + content, digest_size=16).digest()
    assert run.measurements.tokens == tokens
    assert run.measurements.batches_hash == digest.hex()


def test_hash_pairs_optimizers_and_tells_seeds_apart(tmp_path):
    """Equal seeds see equal batches whatever the optimizer; another seed sees others."""
    hashes = []
    for spec, seed in (("adamw", 1), ("sophia", 1), ("adamw", 2)):
        run = trainer(tmp_path, optim=spec, seed=seed)
        run.train()
        hashes.append(run.measurements.batches_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_diverged_run_stops_at_once_and_is_recorded(tmp_path):
    """A NaN loss ends the run at its step, with the reason, and saves no broken checkpoint."""
    run = trainer(tmp_path, max_steps=50, save_strategy="steps", save_steps=4)
    run.add_callback(Poison(step=3))
    run.train()
    assert run.state.global_step == 4
    assert run.measurements.diverged_step == 4
    assert "nan at step 4" in run.measurements.diverged_reason
    assert not (tmp_path / "checkpoint-4").exists()


def test_weights_broken_by_the_last_step_count_as_diverged(tmp_path):
    """No further loss would show it."""
    run = trainer(tmp_path, max_steps=3)
    run.add_callback(Poison(step=3))
    run.train()
    assert "not finite" in run.measurements.diverged_reason


class Overflow(TrainerCallback):
    """Makes an element of a second moment infinite: its parameter then stands still."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == self.step:
            first = next(iter(optimizer.state.values()))
            first["exp_avg_sq"].view(-1)[0] = math.inf


def test_a_state_that_overflowed_is_reported(tmp_path, caplog):
    """The loss does not show it: optimizer, slot, parameter and step are named at the end."""
    run = trainer(tmp_path, max_steps=3)
    run.add_callback(Overflow(3))
    with caplog.at_level(logging.WARNING, logger="optbench_llm"):
        run.train()
    assert "slot 'exp_avg_sq' of parameter 0 of group 0 is no longer finite after step 3" in (
        caplog.text
    )
    assert run.measurements.diverged_reason is None


def test_an_overflow_is_reported_at_the_next_checkpoint(tmp_path, caplog):
    """Once, with the last step at which the state was still finite."""
    run = trainer(tmp_path, max_steps=8, save_strategy="steps", save_steps=2)
    run.add_callback(Overflow(3))
    with caplog.at_level(logging.WARNING, logger="optbench_llm"):
        run.train()
    assert caplog.text.count("no longer finite") == 1
    assert "no longer finite after step 4" in caplog.text
    assert "After step 2 all of it was finite" in caplog.text


def test_callback_works_under_a_stock_trainer(tmp_path, caplog):
    """Times, state and memory come without the mixin; with default settings NaN stops the run."""
    callback = OptBenchCallback()
    run = stock_trainer(tmp_path, max_steps=20)
    run.add_callback(callback)
    run.add_callback(Poison(step=3))
    with caplog.at_level(logging.WARNING, logger="optbench_llm"):
        run.train()
    assert "logging_nan_inf_filter" in caplog.text
    assert run.state.global_step == 4
    assert callback.diverged_step == 4
    assert callback.state_bytes > 2 * 4 * sum(p.numel() for p in run.model.parameters())
    assert callback.first_step_ms > 0
    assert len(callback.optimizer_step_ms) == 3
    assert callback.train_wall_s > 0
    assert callback.peak_mem_bytes > 2**20


def test_the_mixin_needs_no_logged_losses(tmp_path):
    """Under it the filter of the logs stays as the user set it, and a diverged run still stops."""
    run = trainer(tmp_path, max_steps=20, logging_nan_inf_filter=True)
    run.add_callback(Poison(step=3))
    run.train()
    assert run.args.logging_nan_inf_filter
    assert run.measurements.diverged_step == 4


class ReadsLate(TrainerCallback):
    """Has losses read as on a GPU: not at the end of each step."""

    def __init__(self, measurements: OptBenchCallback) -> None:
        self.measurements = measurements

    def on_train_begin(self, *args, **kwargs):
        self.measurements._reads_at_once = False


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_no_broken_checkpoint_is_saved_where_losses_are_read_late(tmp_path, strategy):
    """A save reads the losses that wait, so that a checkpoint after a NaN loss is not written."""
    run = trainer(
        tmp_path, max_steps=50, logging_steps=50, save_strategy=strategy, save_steps=4,
        per_device_train_batch_size=16,
    )  # fmt: skip
    run.add_callback(ReadsLate(run.measurements))
    run.add_callback(Poison(step=2))
    run.train()
    assert run.state.global_step == 4
    assert run.measurements.diverged_step == 3
    assert not list(tmp_path.glob("checkpoint-*"))


def test_optimizer_time_leaves_programs_and_the_first_step_out(tmp_path):
    """Five steps after the first; Sophia's passes are counted, not timed as its steps."""
    run = trainer(tmp_path, optim="sophia", optim_args="k=2")
    run.train()
    assert len(run.measurements.optimizer_step_ms) == 5
    assert run.measurements.extra_passes == 3


# The process loads torch and transformers.
@pytest.mark.slow
def test_peak_memory_starts_anew():
    """A large tensor shows in the stretch that it lives in and not in the next.

    In a process of its own, which has no freed memory to put the tensor into.
    """
    code = (
        "import torch\n"
        "from optbench_llm.training.memory import peak_memory_bytes, reset_peak_memory\n"
        "cpu = torch.device('cpu')\n"
        "reset_peak_memory(cpu); print(peak_memory_bytes(cpu))\n"
        "large = torch.ones(64 * 2**20 // 4); print(peak_memory_bytes(cpu))\n"
        "del large; reset_peak_memory(cpu); print(peak_memory_bytes(cpu))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    before, with_it, after = map(int, process.stdout.split())
    assert with_it >= before + 60 * 2**20
    assert after < before + 60 * 2**20


def test_run_record_holds_what_a_row_needs(tmp_path):
    """All fields are there, finite, consistent with each other, and plain JSON."""
    steps = []
    record = run(tmp_path, optim="adan", max_steps=10, on_step=lambda *seen: steps.append(seen))
    assert record.status == "done"
    assert record.reason is None
    assert steps == list(enumerate(record.curves.losses, start=1))
    assert record.train_loss == pytest.approx(sum(record.curves.losses) / 10)
    assert (record.first_loss, record.last_loss) == (
        record.curves.losses[0],
        record.curves.losses[-1],
    )
    assert record.eval_loss < record.initial_eval_loss
    assert record.state_bytes_per_param == pytest.approx(12 + 4, rel=0.3)
    assert record.tokens_per_s > 0
    assert record.engine == "eager"
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False))["lr"] == record.lr


def test_diverged_record_is_strict_json_with_a_reason(tmp_path):
    """A run at an absurd learning rate is a record, not an exception."""
    record = run(tmp_path, optim="sgd", learning_rate=1e30, max_steps=20)
    assert record.status == "diverged"
    assert "at step" in record.reason
    assert record.eval_loss is None
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False))["status"] == "diverged"


def test_running_twice_on_one_model_leaves_no_wrappers(tmp_path):
    """A warm worker may train a model object again: bf16's patched forward is taken off."""
    model = tiny_gpt2()
    before = set(vars(model))
    first = run(tmp_path, model=model, bf16=True, max_steps=1, learning_rate=0.0)
    assert set(vars(model)) == before
    second = run(tmp_path, model=model, bf16=True, max_steps=1, learning_rate=0.0)
    assert first.curves.losses == second.curves.losses


def test_steps_are_reported_after_a_stock_trainers_checkpoint(tmp_path):
    """Losses before it are unknown; those after it are reported with the steps that they are of."""
    stock_trainer(tmp_path, optim="adamw_torch", save_strategy="steps", save_steps=2).train()
    steps = []
    record = run(
        tmp_path, optim="adamw_torch", resume_from=tmp_path / "checkpoint-2",
        on_step=lambda *seen: steps.append(seen),
    )  # fmt: skip
    assert steps == list(enumerate(record.curves.losses, start=3))
    assert record.steps == steps[-1][0] == 6


def run(folder, model=None, on_step=None, resume_from=None, **settings):
    return run_training(
        tiny_gpt2() if model is None else model,
        SimpleNamespace(pad_token_id=0, eos_token_id=0),
        SimpleNamespace(train=Sentences(), validation=Sentences(16, seed=1)),
        OptBenchArguments(**common(folder, **settings)),
        on_step=on_step,
        resume_from=resume_from,
        evaluate_start=True,
    )
