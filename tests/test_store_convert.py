"""A store of format 1 becomes one of format 2; ``tests/data/store-v1`` was written by 0.1.0.

It is of ``leaderboard --max-steps 3 --optim adamw,sgd``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import run_here
from store_setup import RECIPE

from optbench_llm.leaderboard.convert import convert
from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.optimizer_settings import rule_version
from optbench_llm.leaderboard.recipe import override
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.trial import trial_of
from optbench_llm.run_record import Curves

OLD = Path(__file__).parent / "data" / "store-v1"
# As the store's recipe was.
THREE_STEPS = override(
    RECIPE,
    {
        "training.max_steps": 3,
        "training.num_train_epochs": None,
        "training.warmup_steps": 3,
        "optimizers": ["adamw", "sgd"],
    },
)


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the old store that a test may spoil."""
    return shutil.copytree(OLD, tmp_path / "old")


def old_results() -> dict[str, tuple[dict, list]]:
    """Each spec's ``result.json`` and losses as they stand in the old store."""
    found = {}
    for path in OLD.glob("trials/*/result.json"):
        lines = path.with_name("losses.jsonl").read_text().splitlines()
        values = json.loads(path.read_text())
        found[values["trial"]["spec"]] = (values, [json.loads(line)["loss"] for line in lines])
    return found


def test_nothing_of_a_result_is_lost(tmp_path):
    """Every number and word of the old files is in the new store, to the last bit."""
    assert convert(OLD, tmp_path / "new") == 2
    store = Store.read(tmp_path / "new")
    assert {result.trial.spec for result in store.results} == old_results().keys()
    for result in store.results:
        values, losses = old_results()[result.trial.spec]
        record = {**values["record"]}
        assert result.wall_s == record.pop("wall_s")
        assert result.curves() == Curves(losses, record.pop("step_passes"))
        assert {key: getattr(result.record, key) for key in record} == record
        assert result.environment == Environment(**values["environment"])
        assert result.trial.rule_version == rule_version(result.trial.spec)
    untouched = json.loads((OLD / "untouched.json").read_text())["untouched_eval_loss"]
    assert store.untouched == Untouched(untouched, None)


def test_a_recipe_finds_the_results_of_its_trials(tmp_path):
    """The next leaderboard runs none of them again, and its rows stand in its table once."""
    convert(OLD, tmp_path / "new")
    store = Store.read(tmp_path / "new")
    assert store.identity.training.max_steps == 3
    rows = THREE_STEPS.optimizers
    assert store.rows == rows
    for row in rows:
        assert store.get(trial_of(THREE_STEPS, row, THREE_STEPS.lr_of(row), 42)) is not None


def test_a_row_of_another_lr_keeps_it(old, tmp_path):
    """Where the old recipe gave one lr to all, a row that has another says so."""
    values = json.loads((old / "recipe.json").read_text())
    (old / "recipe.json").write_text(json.dumps({**values, "lr": 0.1}))
    convert(old, tmp_path / "new")
    rows = {row.spec: row.lr for row in Store.read(tmp_path / "new").rows}
    assert rows == {"adamw": 0.001, "sgd": None}


def test_converting_twice_changes_nothing(tmp_path):
    """A conversion that was cut short is called again."""
    convert(OLD, tmp_path / "new")
    before = {p: p.read_bytes() for p in (tmp_path / "new").rglob("*") if p.is_file()}
    before.pop(tmp_path / "new" / "lock")
    assert convert(OLD, tmp_path / "new") == 2
    after = {p: p.read_bytes() for p in (tmp_path / "new").rglob("*") if p.is_file()}
    assert before.items() <= after.items()


def test_an_interrupted_trial_is_taken_too(old, tmp_path):
    """It left neither costs nor a wall time."""
    path = next(old.glob("trials/sgd-*/result.json"))
    values = json.loads(path.read_text())
    record = {key: values["record"][key] for key in ("optimizer", "lr", "seed")}
    record |= {"status": "interrupted", "reason": "Ctrl-C after step 2", "steps": 2}
    path.write_text(json.dumps({**values, "record": record}))
    convert(old, tmp_path / "new")
    (result,) = (r for r in Store.read(tmp_path / "new").results if not r.final)
    assert (result.record.reason, result.wall_s) == ("Ctrl-C after step 2", 0.0)


@pytest.mark.parametrize(
    ("file", "before", "after", "words"),
    [
        ("recipe.json", '"model"', '"modem"', r"recipe\.json: damaged \(no key 'model'"),
        ("recipe.json", '"fp32"', '"fp23"', r"recipe\.json: damaged \(training\.precision"),
        ("trials/sgd-bcc9601d2786/result.json", "{", "", r"sgd-bcc9601d2786/result\.json: damaged"),
        ("trials/sgd-bcc9601d2786/result.json", '"lr": 0.1', '"lr": 0.2', "id does not match"),
        ("trials/sgd-bcc9601d2786/result.json", '"done"', '"great"', "status: .*'great'"),
        ("trials/sgd-bcc9601d2786/losses.jsonl", "loss", "lost", "not convertible"),
    ],
)
def test_a_damaged_old_store_is_named_and_not_converted_by_half(
    old, tmp_path, file, before, after, words
):
    """All is read before anything is written."""
    text = (old / file).read_text()
    (old / file).write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match=words):
        convert(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_an_old_store_is_converted(tmp_path):
    """Neither a new one nor a folder that is none."""
    convert(OLD, tmp_path / "new")
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(ValueError, match="is no store of format 1"):
            convert(folder, tmp_path / "other")


def test_an_old_store_is_not_converted_into_itself(old):
    """Its files stay what they are."""
    with pytest.raises(ValueError, match="optbench-llm convert"):
        convert(old, old)


def test_the_command_says_how_many_trials_it_took(tmp_path):
    """Its words are what the refusal of the old store promises."""
    done = run_here("convert", str(OLD), "--into", str(tmp_path / "new"))
    assert done.returncode == 0
    assert done.stdout == f"2 trials of {OLD} are in {tmp_path / 'new'}\n"


def test_a_row_of_another_schedule_keeps_it(old, tmp_path):
    """Where the old recipe had one schedule for all, a row that has another says so."""
    values = json.loads((old / "recipe.json").read_text())
    values["training"]["schedule"] = "linear"
    (old / "recipe.json").write_text(json.dumps(values))
    convert(old, tmp_path / "new")
    assert {row.schedule for row in Store.read(tmp_path / "new").rows} == {"cosine"}


def test_passes_of_each_step_are_taken(old, tmp_path):
    """Format 1 kept them in the record, format 2 has them among the curves."""
    path = next(old.glob("trials/sgd-*/result.json"))
    path.write_text(path.read_text().replace('"step_passes": null', '"step_passes": [2.0, 1.0]'))
    convert(old, tmp_path / "new")
    passes = {r.trial.spec: r.curves().step_passes for r in Store.read(tmp_path / "new").results}
    assert passes == {"adamw": None, "sgd": [2.0, 1.0]}


def test_what_the_new_store_has_finished_stays(tmp_path):
    """Converted again over results that have since been run anew, it takes none of theirs away."""
    convert(OLD, tmp_path / "new")
    there = Store.read(tmp_path / "new")
    trial = there.results[0].trial
    with Store.open(tmp_path / "new", there.identity) as store:
        store.put(trial, there.results[0].record, 777.0, there.results[0].environment)
    convert(OLD, tmp_path / "new")
    found = Store.read(tmp_path / "new").get(trial)
    assert found is not None
    assert found.wall_s == 777.0
