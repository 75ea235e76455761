"""Hessian-vector products, exact on a quadratic and in agreement on GPT-2; estimates from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marks import slow
from programs_setup import quadratic_trainer
from torch import Tensor
from training_setup import stock_trainer, tiny_gpt2, trainer

from optbench_llm.programs import hutchinson
from optbench_llm.training import attach

#: Kinds of product: how far from autograd's on GPT-2 in fp32, relatively; passes of each.
AGREEMENT = {"forward-difference": 5e-3, "finite-difference": 1e-3, "autograd": 0.0}
PASSES = {"forward-difference": 1.0, "finite-difference": 2.0, "autograd": 2.0}
KINDS = tuple(PASSES)


def observed(run: Any) -> list[list[Tensor]]:
    """What is fed to the optimizer, estimate by estimate; filled while the run goes on."""
    optimizer, seen = run.create_optimizer(), []
    observe = optimizer.observe

    def watch(scale: float = 1.0) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append([p.grad.clone() for p in params])
        observe(scale)

    optimizer.observe = watch
    return seen


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("hvp", KINDS)
@pytest.mark.parametrize("spec", ["sophia-h", "adahessian"])
def test_an_estimate_is_the_vector_times_its_exact_product(
    tmp_path, monkeypatch, spec, hvp, accumulation
):
    """On a quadratic, where differences have no error but rounding's."""
    vectors: list[Tensor] = []
    for kind in (hutchinson.Hutchinson, hutchinson.NormalHutchinson):
        draw = kind.draw
        monkeypatch.setattr(
            kind,
            "draw",
            staticmethod(lambda p, g, draw=draw: vectors.append(draw(p, g)) or vectors[-1]),
        )
    run = quadratic_trainer(
        tmp_path, optim=spec, optim_args={"hvp": hvp, "k": 2}, max_steps=3,
        learning_rate=1e-3, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    seen = observed(run)
    run.train()
    assert len(seen) == 2
    for index, found in enumerate(seen):
        vector = flat(vectors[2 * index : 2 * index + 2])
        expected = vector * (run.model.hessian @ vector)
        torch.testing.assert_close(flat(found), expected, rtol=1e-6, atol=1e-8)
    assert run.measurements.passes == [1 + PASSES[hvp], 1.0, 1 + PASSES[hvp]]


@pytest.mark.parametrize("spec", ["adahessian", *slow("sophia-h")])
def test_estimates_are_the_diagonal_of_the_hessian_on_average(tmp_path, spec):
    """The mean of 400, as the optimizer is fed them, is within five standard errors everywhere.

    The variance of an estimate is the sum of the squares of the row, the diagonal twice for normal
    entries and not at all for signs.
    """
    count = 400
    run = quadratic_trainer(
        tmp_path, optim=spec, optim_args={"k": 1}, max_steps=count, learning_rate=0.0
    )
    seen = observed(run)
    run.train()
    assert len(seen) == count
    mean = torch.stack([flat(estimate) for estimate in seen]).mean(0)
    exact = run.model.hessian.diagonal()
    squares = run.model.hessian.square()
    own = 2 * exact**2 if spec == "sophia-h" else 0
    variance = squares.sum(1) - exact**2 + own
    assert ((mean - exact).abs() < 5 * (variance / count).sqrt()).all()


def test_all_draws_of_one_step_are_the_same_and_of_another_step_differ(tmp_path):
    """By seed and step alone, so that processes and a resumed run draw the same."""
    runs = [trainer(tmp_path, optim="sophia-h", optim_args={"k": 1}, max_steps=2) for _ in range(2)]
    seen = [observed(run) for run in runs]
    for run in runs:
        run.train()
    assert all(torch.equal(a, b) for a, b in zip(flat(seen[0][0]), flat(seen[1][0]), strict=True))
    assert not torch.equal(flat(seen[0][0]), flat(seen[0][1]))


def estimates(folder: Any, spec: str, hvp: str, model: Any = None, **changes: Any) -> Tensor:
    """The first estimate of a run on GPT-2 with dropout."""
    model = tiny_gpt2(dropout=0.1) if model is None else model
    args = {"optim": spec, "optim_args": {"hvp": hvp}, "max_steps": 1, **changes}
    run = trainer(folder, model, **args)
    seen = observed(run)
    run.train()
    return flat(seen[0])


@pytest.mark.parametrize("hvp", ["forward-difference", "finite-difference"])
@pytest.mark.parametrize("spec", ["sophia-h", "adahessian"])
def test_all_kinds_of_product_agree_on_gpt2(tmp_path, spec, hvp):
    """With dropout, whose mask is the step's in all passes."""
    found, exact = (estimates(tmp_path, spec, kind) for kind in (hvp, "autograd"))
    assert (found - exact).norm() / exact.norm() < AGREEMENT[hvp]


@pytest.mark.parametrize("hvp", KINDS)
def test_two_micro_batches_are_one_big_batch(tmp_path, hvp):
    """Same vector, same loss, same estimate."""
    one, two = (
        estimates(
            tmp_path, "adahessian", hvp, tiny_gpt2(), per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        for size in (8, 4)
    )  # fmt: skip
    assert (one - two).norm() / one.norm() < 2 * AGREEMENT[hvp] + 1e-5


@pytest.mark.parametrize("hvp", KINDS)
def test_gradient_checkpointing_changes_no_estimate(tmp_path, hvp):
    """Also the second derivative goes through the recomputed parts."""
    plain = estimates(tmp_path, "adahessian", hvp)
    checkpointed = estimates(tmp_path, "adahessian", hvp, gradient_checkpointing=True)
    assert (plain - checkpointed).norm() / plain.norm() < 1e-4


@pytest.mark.parametrize("hvp", ["forward-difference", "finite-difference"])
def test_differences_are_taken_without_autocast(tmp_path, hvp):
    """Rounding to bf16 would drown them: the estimate is that of a run in fp32, bit for bit."""
    exact, under_autocast = (
        estimates(tmp_path, "adahessian", hvp, bf16=bf16) for bf16 in (False, True)
    )
    assert torch.equal(exact, under_autocast)
    double = estimates(tmp_path, "adahessian", "autograd", bf16=True)
    assert 0 < (double - exact).norm() / exact.norm() < 0.1


def test_second_derivatives_are_refused_on_several_processes(tmp_path, monkeypatch):
    """Which exchange gradients alone."""
    run = trainer(tmp_path, optim="adahessian", optim_args={"hvp": "autograd"})
    monkeypatch.setattr(type(run.args), "world_size", property(lambda args: 2))
    with pytest.raises(ValueError, match=r"'autograd' runs in one process.*'finite-difference'"):
        run.create_optimizer()


def test_what_a_product_cannot_do_is_refused_before_training(tmp_path):
    """With the other kind, or what else to do."""
    short = trainer(tmp_path, tiny_gpt2().to(torch.bfloat16), optim="sophia-h")
    with pytest.raises(ValueError, match=r"weights in bfloat16.*hvp='autograd'"):
        short.create_optimizer()
    fused = tiny_gpt2()
    fused.config._attn_implementation = "flash_attention_2"
    run = trainer(tmp_path, fused, optim="adahessian", optim_args={"hvp": "autograd"})
    with pytest.raises(ValueError, match="'flash_attention_2'; load it with 'sdpa'"):
        run.create_optimizer()
    with pytest.raises(
        ValueError, match=r"hvp='exact'.*'forward-difference', 'finite-difference', 'autograd'"
    ):
        attach(stock_trainer(tmp_path), "adahessian", hvp="exact")
    with pytest.raises(ValueError, match=r"k=0 is out of range, expected an integer in \[1"):
        attach(stock_trainer(tmp_path), "sophia-h", k=0)
