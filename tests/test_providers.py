"""Foreign optimizers: found by name, checked by their signatures, run beside ours."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from leaderboard_setup import leaderboard, losses, rows, write_recipe
from torch import nn
from training_setup import tiny_gpt2, trainer, weights
from transformers import AutoModelForCausalLM

import optbench_llm as ob
from optbench_llm.create import validate_hyperparameters
from optbench_llm.leaderboard.optimizer_settings import (
    canonical_spec,
    declared_lr,
    takes_weight_decay,
)
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.providers import check_arguments
from optbench_llm.training.optimizer_clock import unwrapped


class Base(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta})


class Passing(Base):
    """Hands further arguments on to its base."""

    def __init__(self, params, warmup=3, **kwargs):
        super().__init__(params, **kwargs)
        self.warmup = warmup


class Swallowing(torch.optim.Optimizer):
    """Takes any argument, and reads one of them."""

    def __init__(self, params, lr=0.1, **kwargs):
        super().__init__(params, {"lr": lr, **kwargs})

    def step(self, closure=None):
        return [group.get("cautious") for group in self.param_groups]


def test_further_arguments_are_those_of_the_class_above():
    """``**kwargs`` is no licence: names come from the whole chain of constructors."""
    assert check_arguments("x:Passing", Passing, {"beta": 0.5}) == {
        "warmup": 3,
        "lr": 0.1,
        "beta": 0.5,
    }
    with pytest.raises(ValueError, match=r"no hyperparameter 'betta'\. Did you mean 'beta'\?.*lr"):
        check_arguments("x:Passing", Passing, {"betta": 0.5})


def test_an_argument_that_nobody_reads_is_refused():
    """A class that stores anything would drop it in silence; what its step reads is taken."""
    assert check_arguments("x:Swallowing", Swallowing, {"cautious": True})["cautious"] is True
    with pytest.raises(ValueError, match=r"no hyperparameter 'cautios'\. Did you mean 'cautious'"):
        check_arguments("x:Swallowing", Swallowing, {"cautios": True})
    with pytest.raises(ValueError, match="no hyperparameter 'momentum'"):
        validate_hyperparameters("pytorch_optimizer:Lion", {"momentum": 0.9})


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("torch:adamw", "torch:AdamW"),
        ("torch:AdamW", "torch:AdamW"),
        ("TORCH:ADAMW", "torch:AdamW"),
        ("torch.optim:adamw", "torch:AdamW"),
        ("bnb:lion8bit", "bnb:Lion8bit"),
        ("schedulefree:adamwschedulefree", "schedulefree:AdamWScheduleFree"),
        ("pytorch_optimizer:sgdp", "pytorch_optimizer:SGDP"),
        ("hf:AdamW_Torch_Fused", "hf:adamw_torch_fused"),
        ("AdamW", "adamw"),
        ("LION-32bit", "lion"),
    ],
)
def test_a_spec_has_one_spelling(spec, canonical):
    """The provider's own for its classes, so that no optimizer is two rows of a board."""
    assert canonical_spec(spec) == canonical


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pytorch_optimizer:SAM", "wraps another optimizer"),
        ("pytorch_optimizer:Lookahead", "wraps another optimizer"),
        ("pytorch_optimizer:WSAM", "wraps another optimizer"),
        ("pytorch_optimizer:AliG", "needs the loss from a closure"),
        ("pytorch_optimizer:AdaHessian", "keeps the graph of the backward pass"),
        ("pytorch_optimizer:SophiaH", "keeps the graph of the backward pass"),
        ("pytorch_optimizer:LOMO", "updates inside the backward pass"),
        ("torch:LBFGS", "needs a closure"),
        ("schedulefree:SGDScheduleFreeClosure", "needs a closure"),
        ("pytorch_optimizer:Ranger21", "no default for 'num_iterations'"),
        ("bnb:SGD", "no default for 'lr'"),
        ("torch:Optimizer", "no optimizer 'Optimizer'"),
        ("pytorch_optimizer:AdaBelif", "Nearest: AdaBelief"),
    ],
)
def test_what_no_trainer_could_run_is_refused_before_any_model_is_loaded(spec, words):
    """By name and signature alone, with the reason."""
    with pytest.raises(ValueError, match=words):
        validate_hyperparameters(spec, {})


@pytest.mark.parametrize("package", ["schedulefree", "pytorch_optimizer", "prodigyopt"])
def test_a_provider_that_is_not_installed_names_the_extra(package, monkeypatch):
    """What to type next."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install 'optbench-llm\[providers\]'"):
        ob.create_optimizer([nn.Parameter(torch.ones(2))], f"{package}:Anything")


def test_what_the_leaderboard_asks_needs_no_optimizer_that_runs():
    """The declared lr and whether there is weight decay come from the signature alone."""
    assert declared_lr("schedulefree:AdamWScheduleFree") == 0.0025
    assert declared_lr("pytorch_optimizer:Ranger21") == 0.001
    with pytest.raises(ValueError, match="has no default lr"):
        declared_lr("bnb:SGD")
    assert takes_weight_decay("pytorch_optimizer:Lion")
    assert not takes_weight_decay("torch:Rprop")


def one_step(model: nn.Module, optimizer: Any) -> list[str]:
    """Names of the parameters that a step moved."""
    before = weights(model)
    ids = torch.arange(16).view(1, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return [name for name, value in weights(model).items() if not torch.equal(value, before[name])]


def test_an_optimizer_that_reads_names_gets_the_model():
    """pytorch_optimizer's AdamMini steps a whole model, and says that it needs one."""
    model = tiny_gpt2()
    optimizer = ob.create_optimizer(model, "pytorch_optimizer:AdamMini", lr=1e-3)
    assert len(one_step(model, optimizer)) == len(weights(model))
    with pytest.raises(ValueError, match="pass the model"):
        ob.create_optimizer(model.parameters(), "pytorch_optimizer:AdamMini")


def test_a_foreign_muon_gets_weight_matrices_alone():
    """Embeddings, norms and biases go to its AdamW; bare parameters are refused."""
    model = tiny_gpt2()
    optimizer = ob.create_optimizer(model, "pytorch_optimizer:Muon", weight_decay=0.1)
    by_muon = {p for group in optimizer.param_groups if group["use_muon"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if p in by_muon}
    assert names == {
        f"transformer.h.{layer}.{weight}.weight"
        for layer in (0, 1)
        for weight in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert len(one_step(model, optimizer)) == len(weights(model))
    with pytest.raises(ValueError, match="use_muon=True"):
        ob.create_optimizer(model.parameters(), "pytorch_optimizer:Muon")


def test_an_error_of_the_constructor_names_the_optimizer():
    """torch's Muon takes matrices only, and says so itself."""
    with pytest.raises(ValueError, match="'torch:Muon': Muon only supports 2D parameters"):
        ob.create_optimizer(nn.Linear(3, 2), "torch:Muon")


def test_the_authors_schedule_free_is_evaluated_and_saved_at_x(tmp_path):
    """Checkpoints, the evaluation and the model after training are those of our own rule.

    The package computes each switch anew, so that its x and y come back within rounding alone.
    """
    settings = {"lr_scheduler_type": "constant", "learning_rate": 0.01, "weight_decay": 0.0}
    saving = {"save_strategy": "steps", "save_steps": 3}
    specs = ("schedulefree:AdamWScheduleFree", "adamw-schedulefree")
    theirs, ours = (
        trainer(tmp_path / spec.partition(":")[0], optim=spec, **settings, **saving)
        for spec in specs
    )
    for run in (theirs, ours):
        run.train()
    assert theirs.evaluate()["eval_loss"] == pytest.approx(ours.evaluate()["eval_loss"], abs=1e-5)
    x = weights(theirs.model)
    unwrapped(theirs.optimizer).train()
    y = weights(theirs.model)
    for step in (3, 6):
        one, other = (
            weights(
                AutoModelForCausalLM.from_pretrained(f"{run.args.output_dir}/checkpoint-{step}")
            )
            for run in (theirs, ours)
        )
        for name, value in one.items():
            # The gradient of the keys' bias is 0 but for rounding, whose sign Adam enlarges.
            if not name.endswith("c_attn.bias"):
                assert torch.allclose(value, other[name], atol=1e-4), (step, name)
    for name, value in one.items():
        assert torch.allclose(value, x[name], atol=1e-6), name
    assert max(float((y[name] - value).abs().max()) for name, value in x.items()) > 1e-3


@pytest.mark.parametrize(
    ("spec", "demands"),
    [
        ("schedulefree:SGDScheduleFree", True),
        ("pytorch_optimizer:ScheduleFreeAdamW", True),
        ("adamw-schedulefree", True),
        ("torch:AdamW", False),
        ("adamw", False),
        ("hf:schedule_free_adamw", False),
    ],
)
def test_a_schedule_free_method_gets_a_constant_lr_from_any_provider(tmp_path, spec, demands):
    """In a Trainer and in a recipe; transformers' own keep what transformers gives them."""
    run = trainer(tmp_path, optim=spec, learning_rate=0.01)
    assert run.choice is not None
    chosen = run.choice.scheduler_type(run.args)
    recipe = load_recipe(write_recipe(tmp_path, f"{{spec: '{spec}', lr: 0.01}}"))
    recipe = override(recipe, {"training.schedule": "linear"})
    planned = recipe.schedule_of(recipe.optimizers[0])
    assert (chosen.value, planned) == (("constant",) * 2 if demands else ("linear",) * 2)


TWINS = {
    "torch:AdamW": "adamw",
    "schedulefree:AdamWScheduleFree": "adamw-schedulefree",
    "pytorch_optimizer:Lion": "lion",
    "hf:adamw_torch_fused": "adamw",
    "bnb:Lion8bit": "lion",
}


# Trains in a worker process.
@pytest.mark.slow
def test_providers_stand_in_a_leaderboard_beside_ours(tmp_path):
    """Real rows by real workers; each takes the losses of our rule of the same name."""
    theirs = [f"{{spec: '{spec}', lr: 1e-3, schedule: constant}}" for spec in TWINS]
    mine = [f"{{spec: {spec}, lr: 1e-3, schedule: constant}}" for spec in set(TWINS.values())]
    recipe = write_recipe(tmp_path, *theirs, *mine, "{spec: 'hf:adafactor', lr: 1e-3}")
    process = leaderboard(recipe, "--store", tmp_path / "store")
    assert process.returncode == 0, process.stdout + process.stderr
    found = rows(tmp_path / "store")
    assert {name: row["status"] for name, row in found.items()} == dict.fromkeys(
        [*TWINS, *TWINS.values(), "hf:adafactor"], "done"
    )
    for name, row in found.items():
        assert row["state_bytes_per_param"] > 0, name
        assert row["optimizer_step_ms"] > 0, name
    for spec, twin in TWINS.items():
        tolerance = 0.05 if "8bit" in spec else 1e-4
        stem = spec.replace(":", "-")
        expected = losses(tmp_path / "store", twin)
        assert losses(tmp_path / "store", stem) == pytest.approx(expected, abs=tolerance), spec
        assert found[spec]["eval_loss"] == pytest.approx(found[twin]["eval_loss"], abs=tolerance)


def test_two_spellings_are_one_row(tmp_path):
    """``torch:adamw`` on the command line is the recipe's ``torch:AdamW``, with its settings."""
    recipe = write_recipe(tmp_path, "{spec: 'torch:AdamW', lr: 0.005}")
    process = leaderboard(recipe, "--dry-run", "--optim", "torch:adamw", "--store", tmp_path / "s")
    assert process.returncode == 0, process.stderr
    assert "torch:AdamW" in process.stdout
    assert "0.005" in process.stdout
