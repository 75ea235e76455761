"""The store: trials are there whole or not at all, and belong together."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from optbench_llm.leaderboard.board import Plan
from optbench_llm.leaderboard.recipe import Recipe, TrainingSettings, load_recipe, override
from optbench_llm.leaderboard.store import Store, identity
from optbench_llm.leaderboard.trial import Inputs, plan_trials
from optbench_llm.run_record import RunStatus

RECIPE = load_recipe("tiny-gpt2")
INPUTS = Inputs("model-a", "data-a", "0.1")
TRIAL = plan_trials(RECIPE, INPUTS)[0]
DONE = {"status": "done", "reason": None, "train_loss": 1 / 3}
ENVIRONMENT = {"cores": 2}


def trial_id(changes=None, inputs=INPUTS):
    """The id of the first trial of the default recipe after some changes."""
    return plan_trials(override(RECIPE, changes or {}), inputs)[0].id


@pytest.mark.parametrize(
    "changes",
    [
        {"training.max_steps": 7},
        {"training.batch_size": 7},
        {"training.schedule": "linear"},
        {"training.precision": "bf16"},
        {"training.max_eval_blocks": 7},
        {"processes_per_trial": 2},
        {"seeds": [7]},
        {"lr": 0.007},
        {"lr_scale": 7.0},
        {"optimizers": ["sgd"]},
        {"optimizers": [{"spec": "rmsprop", "args": {"momentum": 0.7}}]},
        {"optimizers": [{"spec": "rmsprop", "schedule": "constant"}]},
    ],
)
def test_what_decides_a_result_changes_the_id(changes):
    """Two trials that may end differently never share a folder."""
    assert trial_id(changes) != TRIAL.id


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "Other words."},
        {"limits.trial_timeout_s": 7},
        {"rank_by": "eval_loss"},
        {"version": 7},
        {"optimizers": ["rmsprop", "sgd"]},
    ],
)
def test_what_decides_no_result_leaves_the_id(changes):
    """Words, limits and other rows cost nobody a second run."""
    assert trial_id(changes) == TRIAL.id


@pytest.mark.parametrize("name", ["model_fingerprint", "data_fingerprint", "package_version"])
def test_the_content_of_model_data_and_package_changes_the_id(name):
    """A result belongs to weights, records and code, whatever they are called."""
    assert trial_id(inputs=replace(INPUTS, **{name: "other"})) != TRIAL.id


def test_a_result_comes_back_as_it_was_put(tmp_path):
    """Numbers survive to the last bit; what is not finite becomes null, for JSON has no word."""
    losses = [0.1 + 0.2, 1e-300, math.nan]
    with Store.open(tmp_path, identity(RECIPE, INPUTS)) as store:
        store.put(TRIAL, DONE, losses, ENVIRONMENT)
    result = Store.read(tmp_path, identity(RECIPE, INPUTS)).get(TRIAL)
    assert result is not None
    assert (result.record, result.environment) == (DONE, ENVIRONMENT)
    assert result.losses == [0.1 + 0.2, 1e-300, None]
    assert result.trial == json.loads(json.dumps(TRIAL.to_dict()))


def test_a_later_result_replaces_a_failed_one(tmp_path):
    """A second try leaves one folder, with the new outcome."""
    with Store.open(tmp_path, identity(RECIPE, INPUTS)) as store:
        store.put(TRIAL, {"status": "error", "reason": "x"}, [], ENVIRONMENT)
        assert not store.get(TRIAL).final
        store.put(TRIAL, DONE, [1.0], ENVIRONMENT)
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [TRIAL.folder]
    assert Store.read(tmp_path, identity(RECIPE, INPUTS)).get(TRIAL).final


@pytest.mark.parametrize(
    ("recipe", "inputs", "words"),
    [
        (override(RECIPE, {"version": 2}), INPUTS, "version: 1 there, 2 here"),
        (override(RECIPE, {"training.max_steps": 7}), INPUTS, r"training\.max_steps: \d+ there, 7"),
        (override(RECIPE, {"lr": 0.1}), INPUTS, 'lr: "declared" there, 0.1 here'),
        (RECIPE, replace(INPUTS, data_fingerprint="other"), "data: "),
        (RECIPE, replace(INPUTS, model_fingerprint="other"), "model: "),
        (RECIPE, replace(INPUTS, package_version="0.2"), 'package: "0.1" there, "0.2" here'),
    ],
)
def test_a_store_of_another_recipe_is_refused_with_the_difference(tmp_path, recipe, inputs, words):
    """Results that cannot be ranked together are never merged, and the user learns why."""
    with Store.open(tmp_path, identity(RECIPE, INPUTS)):
        pass
    with pytest.raises(ValueError, match=rf"{words}.*--store"):
        Store.read(tmp_path, identity(recipe, inputs))


#: Another value of every training setting; both of the budget's must change together.
OTHER_TRAINING = {
    "max_steps": {"training.max_steps": 7},
    "num_train_epochs": {"training.max_steps": None, "training.num_train_epochs": 7.0},
    "batch_size": {"training.batch_size": 7},
    "gradient_accumulation_steps": {"training.gradient_accumulation_steps": 7},
    "schedule": {"training.schedule": "linear"},
    "warmup_steps": {"training.warmup_steps": 7},
    "weight_decay": {"training.weight_decay": 7.0},
    "max_grad_norm": {"training.max_grad_norm": 7.0},
    "precision": {"training.precision": "bf16"},
    "eval_batch_size": {"training.eval_batch_size": 7},
    "max_eval_blocks": {"training.max_eval_blocks": 7},
}
#: Another value of every key of a recipe that all trials of a store must share.
OTHER_RECIPES = {
    "name": {"name": "other"},
    "version": {"version": 7},
    "lr": {"lr": 0.1},
    "lr_scale": {"lr_scale": 0.5},
    "seeds": {"seeds": [42, 7]},
    "processes_per_trial": {"processes_per_trial": 2},
}
#: What stands in a store by its content, and what may differ from run to run.
BY_CONTENT = {"model", "data", "training"}
MAY_DIFFER = {
    "description": {"description": "Other words."},
    "rank_by": {"rank_by": "eval_loss"},
    "optimizers": {"optimizers": ["sgd"]},
    "limits": {"limits.trial_timeout_s": 7.0},
}


def test_every_key_of_a_recipe_is_shared_by_a_store_or_may_differ():
    """A new one needs its line above."""
    assert set(OTHER_TRAINING) == set(TrainingSettings.model_fields)
    known = [*OTHER_RECIPES, *BY_CONTENT, *MAY_DIFFER]
    assert sorted(known) == sorted(Recipe.model_fields)


@pytest.mark.parametrize("changes", [*OTHER_TRAINING.values(), *OTHER_RECIPES.values()])
def test_what_changes_results_is_another_store(tmp_path, changes):
    """No board ranks trials of two budgets, seeds or learning rates against each other."""
    key = next(reversed(changes))
    with Store.open(tmp_path, identity(RECIPE, INPUTS)):
        pass
    with pytest.raises(ValueError, match=rf"{re.escape(key)}: .* there, .* here.*--store"):
        Store.read(tmp_path, identity(override(RECIPE, changes), INPUTS))


@pytest.mark.parametrize("changes", MAY_DIFFER.values(), ids=MAY_DIFFER)
def test_what_changes_no_result_is_the_same_store(tmp_path, changes):
    """Words, limits and other rows cost nobody a second run."""
    with Store.open(tmp_path, identity(RECIPE, INPUTS)) as store:
        store.put(TRIAL, DONE, [1.0], ENVIRONMENT)
    changed = override(RECIPE, changes)
    assert len(Store.read(tmp_path, identity(changed, INPUTS)).results) == 1


@pytest.mark.parametrize("status", get_args(RunStatus))
def test_what_another_try_may_change_is_tried_again(tmp_path, status):
    """A trial that is done or diverged ends so again; time, memory and Ctrl-C may not come back."""
    plan = Plan(RECIPE, INPUTS, plan_trials(RECIPE, INPUTS))
    with Store.open(tmp_path, plan.identity) as store:
        store.put(TRIAL, {"status": status, "reason": "x"}, [], ENVIRONMENT)
        kept = status in ("done", "diverged")
        assert (TRIAL in plan.missing(store)) is not kept
        again = [] if kept else [f"{TRIAL.spec} ({status})"]
        assert plan.tried_again(store) == again


def test_a_store_that_cannot_be_written_is_refused(tmp_path):
    """A file stands where the folder should be: said before any work."""
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(ValueError, match=r"taken.*cannot be written.*--store"),
        Store.open(tmp_path / "taken", identity(RECIPE, INPUTS)),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_store_is_named(tmp_path, text):
    """It is neither a traceback nor an empty store."""
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json: damaged.*--store"):
        Store.read(tmp_path, identity(RECIPE, INPUTS))


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"trial": {}, "id": "x", "record": {}}'])
def test_a_damaged_trial_is_named(tmp_path, text):
    """A disk's fault ends in a message with the folder, not in a traceback."""
    with Store.open(tmp_path, identity(RECIPE, INPUTS)) as store:
        store.put(TRIAL, DONE, [1.0], ENVIRONMENT)
    (tmp_path / "trials" / TRIAL.folder / "result.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{TRIAL.id}: damaged.*delete this folder"):
        Store.read(tmp_path, identity(RECIPE, INPUTS))


def test_reading_writes_nothing(tmp_path):
    """Looking into a store that is not there does not make one."""
    assert Store.read(tmp_path / "none", identity(RECIPE, INPUTS)).results == []
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from optbench_llm.leaderboard.store import Store
with Store.open(Path(sys.argv[1]), {"name": "x"}) as store:
    store.scratch_folder("half-written")
    print("open", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has the store in ``tmp_path`` open, with a half-written trial in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()


def test_a_store_in_use_is_refused_and_freed_by_a_killed_owner(tmp_path, holder):
    """Two writers never share a store; kill -9 leaves neither a lock nor half a trial behind."""
    with (
        pytest.raises(ValueError, match=rf"process {holder.pid} is writing.*--store"),
        Store.open(tmp_path, {"name": "x"}),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    time.sleep(0.05)
    with Store.open(tmp_path, {"name": "x"}):
        assert list((tmp_path / "trials").iterdir()) == []
