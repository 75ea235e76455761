"""Programs: the Gauss-Newton-Bartlett estimate, and that replays leave the run alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_setup import Sentences, common, tiny_gpt2, trainer

from optbench_llm.programs import PROGRAMS, create_program, trained_positions
from optbench_llm.programs.sophia_g import draw_labels
from optbench_llm.training import OptBenchArguments, OptBenchTrainer

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


def test_trained_positions_are_those_whose_logits_the_loss_reads(tmp_path):
    """The mask, shift included, is where the loss has a gradient on the logits."""
    run = trainer(tmp_path)
    batch = {k: torch.stack([Sentences()[i][k] for i in range(4)]) for k in ("input_ids", "labels")}
    outputs = run.model(**batch)
    (grad,) = torch.autograd.grad(outputs.loss, outputs.logits)
    assert torch.equal(trained_positions(run, batch), grad.abs().sum(-1) > 0)


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
        create_program("hutchinson")


def test_fp16_is_refused(tmp_path):
    """Scaled gradients would enter the estimate."""
    run = trainer(tmp_path, optim="sophia")
    run.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="bf16"):
        run.create_optimizer()
