"""Recipes: the shipped ones are complete, and every mistake in one is named where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from leaderboard_setup import trials_of

from optbench_llm.catalog import optimizer_info, published_optimizers
from optbench_llm.leaderboard.command import changed
from optbench_llm.leaderboard.optimizer_settings import declared_lr
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.recipe import load_recipe, override, shipped_recipes
from optbench_llm.leaderboard.trial import Inputs
from optbench_llm.leaderboard.workbench import training_arguments

RECIPE = """\
name: mine
version: 1
description: For a test.
model: optbench:tiny-gpt2
data: {source: optbench:pydocs, block_size: 64}
training:
  max_steps: 3
lr: declared
optimizers:
  - adamw
  - {spec: lion, lr: 1e-4, args: {betas: [0.9, 0.98]}}
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writes a recipe with one piece of text replaced, and gives its path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in RECIPE
        path = tmp_path / "mine.yaml"
        path.write_text(RECIPE.replace(old, new, 1), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_valid_and_named_as_its_file(name):
    """What comes with the package loads, and its default store is found under its name."""
    assert load_recipe(name).name == name


def test_the_default_recipe_runs_the_published_rows_and_lion_8bit():
    """The board that a first command gives has all 23 rows to compare with, and one more."""
    specs = [entry.spec for entry in load_recipe("tiny-gpt2").optimizers]
    assert specs == [*published_optimizers(), "lion-8bit"]


def test_the_reference_recipe_has_the_published_settings():
    """One lr for all, no decay, [INST] prompt, batch 1: what the published runs did."""
    recipe = load_recipe("gpt2-alpaca-reference")
    rows = [optimizer_info(entry.spec) for entry in recipe.optimizers]
    assert [row.variant_of or row.name for row in rows] == published_optimizers()
    assert {row.variant_of for row in rows} - {None} == {"nadam", "sophia", "lars"}
    assert (recipe.lr, recipe.seeds, recipe.data.prompt) == (1e-5, [42], "inst")
    training = recipe.training
    assert (training.batch_size, training.weight_decay, training.precision) == (1, 0.0, "bf16")
    assert {e.spec for e in recipe.optimizers if recipe.schedule_of(e) != "cosine"} == {"adadelta"}


def test_numbers_with_an_exponent_are_numbers(write):
    """YAML 1.1 reads 1e-4 as text; a learning rate must not depend on a decimal point."""
    assert load_recipe(write()).optimizers[1].lr == 1e-4
    path = write("betas: [0.9, 0.98]", "weight_decay: 1e-8")
    assert load_recipe(path).optimizers[1].args == {"weight_decay": 1e-8}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("max_steps: 3", "max_stesp: 3", 7, ["training.max_stesp", "nearest: max_steps"]),
        ("max_steps: 3", "max_steps: three", 7, ["training.max_steps", "integer", "'three'"]),
        ("max_steps: 3", "max_steps: 0", 7, ["training.max_steps", "greater than or equal to 1"]),
        ("max_steps: 3", "batch_size: 3", 6, ["training", "exactly one of max_steps and num"]),
        ("lr: declared", "lr: -1", 8, ["lr", "positive number", "'declared'", "-1"]),
        ("lr: declared", "lr: .nan", 8, ["lr", "positive number"]),
        ("lr: declared", "lr: 1e-5\nlr_scale: 2", None, ["lr_scale", "lr: declared"]),
        ("block_size: 64", "blok_size: 64", 5, ["data.blok_size", "nearest: block_size"]),
        ("  - adamw", "  - adamv", 10, ["optimizers[0].spec", "adamv", "Nearest"]),
        ("  - adamw", "  - {spec: adamw, lr: 0}", 10, ["optimizers[0].lr", "greater than 0"]),
        ("args: {betas", "arsg: {betas", 11, ["optimizers[1].arsg", "nearest: args"]),
        ("[0.9, 0.98]", "[0.9, 1.98]", 11, ["optimizers[1].args", "'lion'", "betas=[0.9, 1.98]"]),
        ("betas: [", "beta: [", 11, ["optimizers[1].args", "'lion'", "Did you mean 'betas'?"]),
        ("  - adamw", "  - sgd\n  - sgd", 9, ["optimizers", "sgd is listed twice"]),
        ("version: 1\n", "", None, ["version: this key is missing"]),
        ("version: 1", "version: 1\nversion: 2", 3, ["version", "given twice"]),
        ("name: mine", "name: [", 3, ["expected"]),
        ("name: mine", "name: {{ x }}", 1, ["expected a plain key"]),
        ("name: mine", "name: mi\x01ne", 1, ["'\\x01' is not allowed"]),
        ("lr: declared", "lr: true", 8, ["lr", "not true or false"]),
        ("max_steps: 3", "max_steps: true", 7, ["training.max_steps", "not true or false"]),
        ("lr: declared", "seeds: [true]", 8, ["seeds", "not true or false"]),
    ],
)
def test_a_fault_is_named_with_file_line_key_and_what_was_expected(write, old, new, line, words):
    """The message leads to the place: one line for each fault, and nobody has to guess."""
    path = write(old, new)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else path), message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_all_faults_of_a_recipe_are_told_at_once(write):
    """Two mistakes give two lines, not two rounds."""
    path = write("max_steps: 3", "max_stesp: 3\n  batch_size: 0")
    with pytest.raises(ValueError, match="max_stesp") as caught:
        load_recipe(path)
    assert "batch_size" in str(caught.value).splitlines()[1]


def test_an_unknown_recipe_gets_the_nearest_name():
    """A slip in the name is answered with the name that was meant."""
    with pytest.raises(ValueError, match=r"tiny-gtp2.*did you mean tiny-gpt2"):
        load_recipe("tiny-gtp2")


def test_a_missing_file_is_named(tmp_path):
    """A path that does not exist is not taken for a shipped name."""
    with pytest.raises(ValueError, match=r"none\.yaml: no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))


def settings(path: str, *specs: str) -> list[dict[str, Any]]:
    """What each row's optimizer is given."""
    recipe = changed(load_recipe(path), {"seed": 1}, specs or None)
    plan = Plan(recipe, Inputs("m", "d"))
    plan.check()
    return [trial.settings for trial in trials_of(plan)]


def test_a_rows_own_weight_decay_wins_over_the_recipes(write):
    """One value reaches the optimizer, and the row's own is the one that was meant for it."""
    path = write("args: {betas: [0.9, 0.98]}", "args: {weight_decay: 0.1}")
    adamw, lion = settings(path)
    assert adamw == {"weight_decay": 0.0, "lr": 1e-3}
    assert lion == {"weight_decay": 0.1, "lr": 1e-4}
    recipe = load_recipe(path)
    training = recipe.training.model_dump()
    for trial in trials_of(Plan(recipe, Inputs("m", "d"))):
        training_arguments(training, trial.to_dict(), path)


def test_no_weight_decay_asks_nothing_of_an_optimizer_without_one(write):
    """torch's Rprop knows no weight decay: 0 suits it, anything else is refused by name."""
    assert settings(write(), "torch:Rprop") == [{"lr": 0.01}]
    path = write("max_steps: 3", "max_steps: 3\n  weight_decay: 0.1")
    with pytest.raises(ValueError, match=r"recipe mine: .*torch:Rprop.* no .*'weight_decay'"):
        settings(path, "torch:Rprop")


def test_a_rows_arguments_out_of_range_are_refused_with_their_key(write):
    """Before any worker starts, and where it stands in the file."""
    path = write("lr: 1e-4, args: {betas: [0.9, 0.98]}", "args: {weight_decay: -1}")
    with pytest.raises(ValueError, match=r"optimizers\[1\].args: .*weight_decay=-1"):
        load_recipe(path)


def test_a_spec_of_the_recipe_keeps_its_settings_when_picked_by_name(write):
    """``--optim lion,sgd`` runs the recipe's own lion; sgd comes with what the catalog declares."""
    recipe = changed(load_recipe(write()), {}, ["LION", "sgd"])
    assert [entry.spec for entry in recipe.optimizers] == ["lion", "sgd"]
    assert recipe.optimizers[0].args == {"betas": [0.9, 0.98]}
    assert recipe.lr_of(recipe.optimizers[0]) == 1e-4


def test_one_lr_for_all_holds_for_rows_with_an_lr_of_their_own(write):
    """``--lr`` means what it says."""
    recipe = changed(load_recipe(write()), {"lr": "3e-4"}, None)
    assert {recipe.lr_of(entry) for entry in recipe.optimizers} == {3e-4}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "random:gpt2"}, {"model": "random:gpt2"}),
        ({"data": "other.json"}, {"data.source": "other.json"}),
        ({"max_steps": 7}, {"training.max_steps": 7, "training.num_train_epochs": None}),
        ({"seed": 7}, {"seeds": [7]}),
        ({"processes_per_trial": 2}, {"processes_per_trial": 2}),
        ({"lr": "0.5"}, {"lr": 0.5, "lr_scale": 1.0}),
        ({"lr": "declared"}, {"lr": "declared", "lr_scale": 1.0}),
    ],
)
def test_an_option_replaces_what_the_recipe_says(write, changes, expected):
    """That alone; ``--lr`` also takes the recipe's scale, and each row's own lr, away."""
    path = write("max_steps: 3\nlr: declared", "num_train_epochs: 3\nlr_scale: 0.5")
    before, after = load_recipe(path), changed(load_recipe(path), changes, None)
    if "lr" in changes:
        expected["optimizers"] = [entry.model_dump() | {"lr": None} for entry in before.optimizers]
    assert after == override(before, expected)


def test_lr_scale_multiplies_declared_learning_rates_alone(write):
    """An lr that a row sets for itself is meant as it stands."""
    recipe = load_recipe(write())
    scaled = override(recipe, {"lr_scale": 0.5})
    before = [recipe.lr_of(entry) for entry in recipe.optimizers]
    after = [scaled.lr_of(entry) for entry in scaled.optimizers]
    assert after == [before[0] / 2, before[1]]


def test_lr_scale_leaves_methods_alone_that_find_their_own_step_size(write):
    """Prodigy at a tenth would be another method; a wrapper changes nothing about that."""
    specs = [{"spec": "prodigy"}, {"spec": "lookahead+adadelta"}, {"spec": "adamw"}]
    recipe = override(load_recipe(write()), {"lr_scale": 0.1, "optimizers": specs})
    assert [recipe.lr_of(entry) for entry in recipe.optimizers] == [1.0, 1.0, pytest.approx(1e-4)]


def test_ranking_by_eval_loss_needs_something_to_evaluate_on(write):
    """Without a validation split there is no such loss: said before any work."""
    path = write("block_size: 64}", "block_size: 64, validation_fraction: 0}\nrank_by: eval_loss")
    with pytest.raises(ValueError, match=r"rank_by: eval_loss needs a data\.validation_fraction"):
        load_recipe(path)


def test_a_whole_number_is_a_declared_lr_too():
    """torch writes LBFGS's default as 1."""
    assert declared_lr("torch:LBFGS") == 1.0


def test_a_wrong_change_names_its_key(write):
    """A bad value from the command line is refused like one in the file."""
    with pytest.raises(ValueError, match=r"training\.max_steps.*greater than or equal to 1"):
        changed(load_recipe(write()), {"max_steps": 0}, None)


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("tiny-gpt2", {"track": "tunde"}, ["track", "'tuned'", "'tunde'"]),
        ("gpt2-alpaca-reference", {"track": "tuned"}, ["data.test_fraction above 0"]),
        ("tiny-gpt2", {"track": "reference"}, ["one lr for all", "1e-5"]),
        ("tiny-gpt2", {"track": "tuned", "lr": "0.001"}, ["lr: declared", "0.001"]),
        ("tiny-tuned", {"seed": 0}, ["seeds: 0 is the seed of the search"]),
    ],
)
def test_a_track_that_its_recipe_cannot_serve_is_refused(recipe, changes, words):
    """Before any work, with what it lacks."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        changed(load_recipe(recipe), changes, None)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.validation_fraction": 0}, "data.validation_fraction and data.test_fraction"),
        ({"seeds": [0, 1]}, "0 is the seed of the search"),
        ({"search.trials": 4}, r"search\.trials: expected greater than or equal to 5, got 4"),
        ({"search.trials": 13}, r"search\.trials: expected less than or equal to 12, got 13"),
        ({"baseline": "adamww"}, "baseline: unknown optimizer 'adamww'.*Nearest"),
        ({"baseline_budgets": [-1]}, r"baseline_budgets\[0\]: expected greater than 0"),
        ({"track": "declared", "data.test_fraction": 0, "rank_by": "test_loss"}, "test_loss needs"),
        ({"track": "reference"}, "one lr for all"),
        ({"lr": 0.001}, "track tuned starts from each optimizer's own lr"),
    ],
)
def test_a_fault_of_a_tuned_recipe_is_named(changes, words):
    """Each key with what was expected."""
    with pytest.raises(ValueError, match=words):
        override(load_recipe("tiny-tuned"), changes)


@pytest.mark.parametrize(
    ("recipe", "track", "seeds", "ranked_by"),
    [
        ("tiny-gpt2", "tuned", (1, 2, 3, 4, 5), "test_loss"),
        ("tiny-gpt2", "declared", (42,), "train_loss"),
        ("tiny-tuned", "declared", (1, 2, 3, 4, 5), "train_loss"),
        ("gpt2-alpaca-reference", "declared", (1, 2, 3, 4, 5), "train_loss"),
        ("gpt2-alpaca-reference", None, (42,), "train_loss"),
    ],
)
def test_a_track_brings_its_own_seeds_and_ranking(recipe, track, seeds, ranked_by):
    """Another track than the recipe's is not run with what was meant for that one."""
    found = changed(load_recipe(recipe), {"track": track}, None)
    assert found.its_track == (track or "reference")
    assert (found.all_seeds, found.ranked_by) == (seeds, ranked_by)
    assert (found.lr == "declared") is (found.its_track != "reference")
