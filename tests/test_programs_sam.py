"""SAM: its steps against their definition, and around what it leaves its base."""

from __future__ import annotations

import pytest
import torch
from programs_setup import Quadratic, quadratic_trainer
from training_setup import assert_same_weights, tiny_gpt2, trainer, weights

import optbench_llm as ob
from optbench_llm.programs.sam import perturbation


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_is_the_base_with_the_gradient_at_the_perturbed_weights(
    tmp_path, adaptive, accumulation
):
    """On a quadratic, by the paper's equations; the second gradient is of the same batches."""
    rho, lr = 0.3, 0.1
    run = quadratic_trainer(
        tmp_path, optim="sam+sgd", optim_args={"rho": rho, "adaptive": adaptive}, max_steps=3,
        per_device_train_batch_size=4, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    model = run.model
    point = model.point.detach().clone()
    run.train()
    for batch in run.batches:
        gradient = model.gradient(point, batch)
        scale = point.abs() if adaptive else torch.ones_like(point)
        away = rho * scale**2 * gradient / (scale * gradient).norm()
        point = point - lr * model.gradient(point + away, batch)
    torch.testing.assert_close(model.point.detach(), point, rtol=1e-6, atol=1e-6)
    assert run.measurements.passes == [2.0] * 3


@pytest.mark.parametrize("adaptive", [False, True])
def test_pytorch_optimizer_takes_the_same_steps(tmp_path, adaptive):
    """A port of davda54/sam around torch's SGD with momentum, by closures, on the same batches."""
    from pytorch_optimizer import SAM

    run = quadratic_trainer(
        tmp_path, optim="sam", optim_args={"rho": 0.2, "adaptive": adaptive}, max_steps=6,
    )  # fmt: skip
    theirs = Quadratic()
    sam = SAM(
        theirs.parameters(), torch.optim.SGD, rho=0.2, adaptive=adaptive, lr=0.1, momentum=0.9
    )
    run.train()
    for batch in run.batches:

        def loss(batch=batch):
            value = theirs(batch, None)["loss"]
            value.backward()
            return value

        loss()
        sam.step(loss)
        sam.zero_grad()
    torch.testing.assert_close(run.model.point, theirs.point, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "base",
    ["adamw", "lion@int8", "lookahead+sgd", "schedulefree+sgd", "muon", "sophia", "prodigy"],
)
def test_without_a_radius_it_is_its_base_bit_for_bit(tmp_path, base):
    """Also under dropout, clipping and accumulation: the second pass has the mask of the first."""
    runs = []
    for spec, settings in ((base, {}), (f"sam+{base}", {"rho": 0.0})):
        if "sam_rho" in ob.optimizer_info(spec).defaults:
            settings = {"sam_rho": 0.0}
        run = trainer(
            tmp_path, tiny_gpt2(dropout=0.1), optim=spec, optim_args=settings, max_steps=3,
            gradient_accumulation_steps=2, max_grad_norm=0.1,
        )  # fmt: skip
        run.train()
        runs.append(run)
    plain, sam = runs
    assert plain.measurements.losses == sam.measurements.losses
    assert_same_weights(weights(plain.model), weights(sam.model))


@pytest.mark.parametrize("settings", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_autocast_and_checkpointing_come_along(tmp_path, settings):
    """The second pass is under them too: at the same weights it gives the same gradient."""
    runs = []
    for optim, args in (("adamw", {}), ("sam+adamw", {"rho": 0.0})):
        run = trainer(
            tmp_path, tiny_gpt2(dropout=0.1), optim=optim, optim_args=args, max_steps=3, **settings
        )
        run.train()
        runs.append(run)
    plain, sam = runs
    assert plain.measurements.losses == sam.measurements.losses
    assert_same_weights(weights(plain.model), weights(sam.model))


def test_clipping_acts_on_the_second_gradient(tmp_path):
    """Its length is what the trainer logs and bounds; that of the first is of no account."""
    run = quadratic_trainer(
        tmp_path, optim="sam+sgd", optim_args={"rho": 0.5}, max_steps=1, max_grad_norm=0.01,
        logging_strategy="steps",
    )  # fmt: skip
    start = run.model.point.detach().clone()
    run.train()
    gradient = run.model.gradient(start, run.batches[0])
    second = run.model.gradient(start + 0.5 * gradient / gradient.norm(), run.batches[0])
    assert run.state.log_history[0]["grad_norm"] == pytest.approx(second.norm().item(), rel=1e-5)
    moved = start - run.model.point.detach()
    torch.testing.assert_close(moved, 0.1 * 0.01 * second / second.norm(), rtol=1e-4, atol=1e-9)


def test_weights_are_put_back_when_the_second_pass_fails(tmp_path):
    """Nobody is left with perturbed weights."""
    run = quadratic_trainer(tmp_path, optim="sam+sgd", max_steps=1)
    start = run.model.point.detach().clone()
    forward, calls = run.model.forward, []

    def failing(x, labels):
        calls.append(1)
        if len(calls) == 3:  # after the step's own pass and the one that looks whether it repeats
            raise MemoryError("no room")
        return forward(x, labels)

    run.model.forward = failing
    with pytest.raises(MemoryError):
        run.train()
    assert torch.equal(run.model.point, start)


def test_weights_in_16_bits_are_warned_of(tmp_path):
    """Perturbations are smaller than what bf16 tells apart."""
    run = trainer(tmp_path, tiny_gpt2().to(torch.bfloat16), optim="sam+adamw", max_steps=1)
    with pytest.warns(UserWarning, match=r"'sam\+adamw'.*load the model in fp32"):
        run.create_optimizer()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("huge", [1e15, 1e25, 3e38])
def test_a_huge_gradient_perturbs_by_no_more_than_rho(adaptive, huge):
    """Beyond fp32's range of a norm nothing is perturbed: that step is the base's own."""
    p = torch.nn.Parameter(torch.ones(6, 8))
    optimizer = ob.create_optimizer([p], "sam", rho=0.05, adaptive=adaptive)
    p.grad = torch.ones_like(p)
    p.grad[2, 3] = huge
    _, (direction,), (scale,) = perturbation(optimizer)
    assert (direction * scale).norm() <= 0.05 * (1 + 1e-6)


@pytest.mark.parametrize("spec", ["sam+adamw", "svrg+sgd"])
def test_a_step_without_the_program_is_refused(spec):
    """It would be the base alone, and nobody would see it."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ob.create_optimizer([p], spec)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"OptBenchTrainer or attach.*gradients_made\(\)"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))
    optimizer.gradients_made()
    optimizer.step()
    assert not torch.equal(p, torch.ones(3))
    with pytest.raises(RuntimeError, match="no program"):
        optimizer.step()
