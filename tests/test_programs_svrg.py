"""alpha-SVRG: variance-free steps on a quadratic, schedules, data, resume and refusals."""

from __future__ import annotations

import pytest
import torch
from programs_setup import POINTS, Targets, quadratic_trainer
from training_setup import Sentences, assert_same_weights, tiny_gpt2, trainer, weights

from optbench_llm.programs.svrg import SVRG, coefficient
from optbench_llm.training import OptBenchArguments, OptBenchTrainer


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("period", [None, 2])
def test_full_strength_steps_as_full_gradient_descent_does(tmp_path, accumulation, period):
    """All points share one Hessian here, so that nothing of the batch's variance is left.

    The mean of the snapshot runs over all points, whatever the batch.
    """
    steps = 7
    run = quadratic_trainer(
        tmp_path, optim="svrg+sgd", max_steps=steps, per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        optim_args={
            "coefficient": 1.0, "coefficient_schedule": "constant", "snapshot_period": period,
        },
    )  # fmt: skip
    model, point = run.model, run.model.point.detach().clone()
    run.train()
    for _ in range(steps):
        point = point - 0.1 * model.gradient(point, Targets().x)
    torch.testing.assert_close(model.point.detach(), point, rtol=1e-6, atol=1e-6)


def test_at_the_snapshot_a_step_of_half_strength_is_halfway_to_the_mean(tmp_path):
    """g - alpha (g - mu); later the snapshot's gradient of the same batch takes g's place."""
    run = quadratic_trainer(
        tmp_path, optim="svrg+sgd", max_steps=2,
        optim_args={"coefficient": 0.5, "coefficient_schedule": "constant"},
    )  # fmt: skip
    model, snapshot = run.model, run.model.point.detach().clone()
    run.train()
    mean = model.gradient(snapshot, Targets().x)
    point = snapshot
    for batch in run.batches:
        corrected = model.gradient(point, batch) - 0.5 * (model.gradient(snapshot, batch) - mean)
        point = point - 0.1 * corrected
    torch.testing.assert_close(model.point.detach(), point, rtol=1e-6, atol=1e-6)
    kept = [run.optimizer.state[p]["svrg_snapshot"] for p in model.parameters()]
    assert run.measurements.state_bytes == 2 * 8 * snapshot.numel()
    assert torch.equal(torch.cat([k.flatten() for k in kept]), snapshot)


def test_passes_over_the_data_are_counted(tmp_path):
    """A snapshot costs the steps of an epoch; at it the batch's own gradient is not taken again."""
    run = quadratic_trainer(tmp_path, optim="svrg+sgd", max_steps=5)
    run.train()
    epoch = POINTS // 4
    assert run.measurements.passes == [1.0 + epoch, 2.0, 2.0, 1.0 + epoch, 2.0]
    few = quadratic_trainer(
        tmp_path, optim="svrg+sgd", max_steps=3,
        optim_args={"snapshot_batches": 2, "snapshot_period": 2},
    )  # fmt: skip
    few.train()
    assert few.measurements.passes == [3.0, 2.0, 3.0]


@pytest.mark.parametrize("base", ["adamw", "lookahead+lion", "schedulefree+sgd", "muon@bf16"])
def test_without_a_coefficient_it_is_its_base_bit_for_bit(tmp_path, base):
    """And it costs nothing then."""
    runs = []
    for spec, settings in ((base, {}), (f"svrg+{base}", {"coefficient": 0.0})):
        run = trainer(
            tmp_path, tiny_gpt2(dropout=0.1), optim=spec, optim_args=settings, max_steps=3
        )
        run.train()
        runs.append(run)
    plain, svrg = runs
    assert plain.measurements.losses == svrg.measurements.losses
    assert_same_weights(weights(plain.model), weights(svrg.model))
    assert svrg.measurements.passes == [1.0] * 3


def test_the_data_and_dropout_of_the_run_are_left_alone(tmp_path):
    """Passes over the data for the mean change neither the order of batches nor the masks."""
    runs = []
    for spec, settings in (("sgd", {}), ("svrg+sgd", {"snapshot_period": 2})):
        run = trainer(
            tmp_path, tiny_gpt2(dropout=0.1), optim=spec, optim_args=settings, max_steps=20,
            learning_rate=0.0, gradient_accumulation_steps=2,
        )  # fmt: skip
        run.train()
        runs.append(run)
    assert runs[0].measurements.losses == runs[1].measurements.losses
    assert runs[0].measurements.batches_hash == runs[1].measurements.batches_hash


@pytest.mark.parametrize("settings", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_autocast_and_checkpointing_come_along(tmp_path, monkeypatch, settings):
    """The pass at the snapshot is under them too: where nothing moves, both gradients are one."""
    compared = []
    at_snapshot = SVRG._gradients_at_snapshot

    def watch(self, replay, optimizer, params):
        of_step = [p.grad.clone() for p in params]
        found = at_snapshot(self, replay, optimizer, params)
        compared.extend(zip(of_step, found, strict=True))
        return found

    monkeypatch.setattr(SVRG, "_gradients_at_snapshot", watch)
    args = {"snapshot_batches": 1, "snapshot_period": 3}
    run = trainer(
        tmp_path, tiny_gpt2(dropout=0.1), optim="svrg+adamw", optim_args=args, max_steps=3,
        learning_rate=0.0, **settings,
    )  # fmt: skip
    run.train()
    assert len(compared) == 2 * len(list(run.model.parameters()))
    assert all(torch.equal(a, b) and a.any() for a, b in compared)


def test_the_coefficient_falls_from_snapshot_to_snapshot():
    """Linearly, to nothing after the last; or not at all."""
    linear = {"coefficient": 0.8, "coefficient_schedule": "linear"}
    assert [coefficient(linear, s, 4) for s in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    constant = {**linear, "coefficient_schedule": "constant"}
    assert {coefficient(constant, s, 4) for s in range(4)} == {0.8}


class Stream(torch.utils.data.IterableDataset):
    """Sentences without an end."""

    def __iter__(self):
        sentences = Sentences()
        while True:
            yield from (sentences[i] for i in range(len(sentences)))


def test_an_endless_stream_is_refused_unless_a_count_of_batches_is_given(tmp_path):
    """Before training, with what to set."""

    def make(**settings):
        args = OptBenchArguments(
            output_dir=str(tmp_path), max_steps=3, use_cpu=True, report_to="none",
            save_strategy="no", optim="svrg+sgd", optim_args=settings, disable_tqdm=True,
        )  # fmt: skip
        return OptBenchTrainer(model=tiny_gpt2(), args=args, train_dataset=Stream())

    with pytest.raises(
        ValueError, match=r"Stream does not tell.*snapshot_period and snapshot_batc"
    ):
        make().train()
    run = make(snapshot_period=2, snapshot_batches=3)
    run.train()
    assert run.measurements.passes == [4.0, 2.0, 4.0]
