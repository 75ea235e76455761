"""The store: trials are there whole or not at all, belong together, and say so when edited."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from store_setup import (
    ENTRY,
    ENVIRONMENT,
    IDENTITY,
    INPUTS,
    RECIPE,
    TRIAL,
    put,
    record,
    seeded,
)

from optbench_llm.leaderboard.identity import identity
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe, TrainingSettings, override
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.trial import canonical_hash, trial_of
from optbench_llm.run_record import Curves

#: Another value of every training setting; both of the budget's must change together.
OTHER_TRAINING = {
    "max_steps": {"training.num_train_epochs": None, "training.max_steps": 7},
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
#: Another value of every other key that all trials of a store must share.
OTHER_STORES = {"processes_per_trial": {"processes_per_trial": 2}}
#: What stands in a store by its content or in sections of its own.
BY_CONTENT = {"model", "data", "training"}
#: What decides trials' results, and so their ids: a store holds trials of several values.
OF_A_TRIAL = {
    "track": {"track": "tuned"},
    "lr": {"track": "reference", "lr": 0.007, "lr_scale": 1.0},
    "lr_scale": {"lr_scale": 0.5},
    "seeds": {"seeds": [42, 7]},
    "search": {"search.trials": 9},
    "baseline": {"baseline": "sgd"},
    "baseline_budgets": {"baseline_budgets": [4.0]},
    "optimizers": {"optimizers": [{"spec": ENTRY.spec, "schedule": "constant"}]},
}
#: Words, limits, and what is made of the results.
MAY_DIFFER = {
    "name": {"name": "other"},
    "version": {"version": 7},
    "description": {"description": "Other words."},
    "rank_by": {"rank_by": "eval_loss"},
    "limits": {"limits.trial_timeout_s": 7.0},
}


def test_every_key_of_a_recipe_is_a_stores_or_a_trials_or_may_differ():
    """A new one needs its line above."""
    assert set(OTHER_TRAINING) == set(TrainingSettings.model_fields)
    known = [*OTHER_STORES, *BY_CONTENT, *OF_A_TRIAL, *MAY_DIFFER]
    assert sorted(known) == sorted(Recipe.model_fields)


@pytest.mark.parametrize("changes", [*OTHER_TRAINING.values(), *OTHER_STORES.values()])
def test_what_all_trials_share_is_another_store(tmp_path, changes):
    """No board ranks trials of two budgets against each other, and the user learns why."""
    key = next(reversed(changes))
    with Store.open(tmp_path, IDENTITY):
        pass
    with pytest.raises(ValueError, match=rf"{re.escape(key)}: .* there, .* here.*--store"):
        Store.read(tmp_path, identity(override(RECIPE, changes), INPUTS))


@pytest.mark.parametrize(
    ("name", "words"), [("model_fingerprint", "model: "), ("data_fingerprint", "data: ")]
)
def test_another_model_or_data_is_another_store(tmp_path, name, words):
    """A result belongs to weights and records, whatever they are called."""
    with Store.open(tmp_path, IDENTITY):
        pass
    other = identity(RECIPE, replace(INPUTS, **{name: "other"}))
    with pytest.raises(ValueError, match=rf'{words}"\w+-a" there, "other" here.*--store'):
        Store.read(tmp_path, other)


@pytest.mark.parametrize("changes", [*OF_A_TRIAL.values(), *MAY_DIFFER.values()])
def test_a_store_grows_through_what_belongs_to_trials(tmp_path, changes):
    """From 3 seeds to 5, from ten rows to sixty, through tracks: no trial is run twice."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store)
    # A search chooses by a split that this recipe has, and its seed is none of the rows'.
    changed = override(RECIPE, changes)
    with Store.open(tmp_path, identity(changed, INPUTS)) as store:
        put(store, seeded(7))
        assert len(store.results) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": "sgd"},
        {"hyperparameters": {"momentum": 0.7}},
        {"lr": 0.2},
        {"seed": 7},
        {"schedule": "linear"},
        {"weight_decay": 0.7},
        {"rule_version": "other"},
        {"max_steps": 7},
    ],
)
def test_what_decides_a_result_is_another_trial(tmp_path, changes):
    """Two trials that may end differently never share a folder."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store)
        assert store.get(replace(TRIAL, **changes)) is None


@pytest.mark.parametrize("changes", [{"engine": "compiled"}, {"planned_steps": 7}])
def test_how_a_trial_is_run_is_kept_and_makes_no_other_trial(tmp_path, changes):
    """What has a result eager is not run again compiled; the file says how it was run."""
    trial = replace(TRIAL, **changes)
    with Store.open(tmp_path, IDENTITY) as store:
        put(store, trial)
    result = Store.read(tmp_path, IDENTITY).get(TRIAL)
    assert result is not None
    assert {key: getattr(result.trial, key) for key in changes} == changes


def test_a_result_comes_back_as_it_was_put(tmp_path):
    """Numbers survive to the last bit; what is not finite becomes null, for JSON has no word."""
    draw = random.Random(0)
    numbers = [draw.uniform(0, 10) * 10.0 ** draw.randrange(-300, 300) for _ in range(2000)]
    curves = Curves([0.1 + 0.2, 5e-324, *numbers], [2.0], [math.nan, 1 / 3, math.inf], [3, 4, 5])
    given = record(train_loss=numbers[0], eval_loss=math.inf, curves=curves)
    with Store.open(tmp_path, IDENTITY) as store:
        at_once = store.put(TRIAL, given, 1 / 3, ENVIRONMENT)
        assert store.by_id == {TRIAL.id: at_once}
    result = Store.read(tmp_path).get(TRIAL)
    assert result == at_once
    assert (result.trial, result.wall_s, result.environment) == (TRIAL, 1 / 3, ENVIRONMENT)
    assert result.record == replace(given, eval_loss=None, curves=Curves())
    assert result.curves() == at_once.curves() == replace(curves, test_losses=[None, 1 / 3, None])


def test_the_same_result_makes_the_same_files(tmp_path):
    """No date is in them: a store under version control changes only where results do."""
    for name in ("a", "b"):
        with Store.open(tmp_path / name, IDENTITY) as store:
            put(store)
        time.sleep(1.1 if name == "a" else 0)
    for name in ("result.json", "curves.json.gz"):
        a, b = ((tmp_path / x / "trials" / TRIAL.folder / name).read_bytes() for x in "ab")
        assert a == b


def test_a_later_result_replaces_a_failed_one(tmp_path):
    """A second try leaves one folder, with the new outcome."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store, status="error", reason="x", curves=Curves())
        assert not store.get(TRIAL).final
        put(store)
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [TRIAL.folder]
    assert Store.read(tmp_path, IDENTITY).get(TRIAL).final


def test_rows_are_remembered_once_in_their_order(tmp_path):
    """Each run adds those that it asks for; a provider's need not be installed to read them."""
    rows = [ENTRY, OptimizerEntry.model_validate({"spec": "lion", "args": {"betas": [0.9, 0.98]}})]
    with Store.open(tmp_path, IDENTITY) as store:
        store.add_rows(rows)
        store.add_rows([OptimizerEntry.model_validate("sgd"), *rows])
    names = [entry.spec for entry in store.rows]
    assert names == [ENTRY.spec, "lion", "sgd"]
    path = tmp_path / "rows.json"
    path.write_text(path.read_text().replace('"sgd"', '"nowhere.at.all:SGD"'))
    assert Store.read(tmp_path).rows[:2] == rows
    assert Store.read(tmp_path).rows[2].spec == "nowhere.at.all:SGD"


def test_the_untouched_models_losses_are_kept(tmp_path):
    """One that is not finite is as none."""
    with Store.open(tmp_path, IDENTITY) as store:
        assert store.untouched is None
        store.put_untouched(Untouched(4.5, math.nan))
        assert store.untouched == Untouched(4.5, None)
    assert Store.read(tmp_path).untouched == Untouched(4.5, None)


def test_a_file_that_cannot_be_a_store_is_refused(tmp_path):
    """A file stands where the folder should be: said before any work."""
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(ValueError, match=r"taken.*cannot be written.*--store"),
        Store.open(tmp_path / "taken", IDENTITY),
    ):
        pass


@pytest.mark.parametrize("name", ["store.json", "rows.json", "untouched.json"])
@pytest.mark.parametrize("text", ["", "{", "[7]", "null", '{"lr": 7}'])
def test_a_damaged_store_is_named(tmp_path, name, text):
    """It is neither a traceback nor an empty store."""
    with Store.open(tmp_path, IDENTITY):
        pass
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: damaged.*--store"):
        Store.read(tmp_path, IDENTITY)


def test_a_store_of_format_1_is_refused_with_the_way_out(tmp_path):
    """Its results are not lost: the message is the command that keeps them."""
    (tmp_path / "recipe.json").write_text("{}")
    for given in (IDENTITY, None):
        with pytest.raises(ValueError, match=rf"optbench-llm convert {tmp_path} --into NEW"):
            Store.read(tmp_path, given)


def test_a_store_of_a_later_format_is_refused(tmp_path):
    """What this version cannot know, it does not guess."""
    (tmp_path / "store.json").write_text('{"format": 3, "of": "the future"}')
    with pytest.raises(ValueError, match=r"has format 3.*reads 2.*--store"):
        Store.read(tmp_path, IDENTITY)


def test_trials_without_a_store_around_them_are_refused(tmp_path):
    """Nothing says of what model they are."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store)
    (tmp_path / "store.json").unlink()
    with pytest.raises(ValueError, match=r"holds trials and no store\.json"):
        Store.read(tmp_path, IDENTITY)


@pytest.fixture
def stored(tmp_path):
    """The folder of a stored trial, in a store in ``tmp_path``."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store)
    return tmp_path / "trials" / TRIAL.folder


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"test_loss":2.125', '"test_loss":1.125'),
        lambda text: text.replace('"lr":0.1', '"lr":0.2'),
        lambda text: text.replace('"wall_s":1.5', '"wall_s":0.5'),
        lambda text: text.replace("Some CPU", "Any CPU"),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_an_edited_or_damaged_trial_is_named(stored, tmp_path, edit):
    """No number of a table is one that somebody typed, and no fault of a disk a traceback."""
    path = stored / "result.json"
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    words = rf"{TRIAL.folder}: edited or damaged \(its hash does not match\); delete this folder"
    with pytest.raises(ValueError, match=words):
        Store.read(tmp_path, IDENTITY)


def test_an_edit_with_its_hash_made_anew_still_has_another_id(stored, tmp_path):
    """A trial is what its id says, whoever wrote the file."""
    path = stored / "result.json"
    values = json.loads(path.read_text())
    assert values.pop("sha256") == canonical_hash(values, 64)
    values["trial"]["lr"] = 0.2
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    path.write_text(f'{text[:-1]},"sha256":"{canonical_hash(values, 64)}"}}\n')
    with pytest.raises(ValueError, match=rf"{TRIAL.folder}: edited or damaged \(its trial is"):
        Store.read(tmp_path, IDENTITY)


def test_a_trial_under_another_name_is_named(stored, tmp_path):
    """A folder that was copied by hand does not count twice."""
    stored.rename(stored.with_name("sgd-0123456789ab"))
    with pytest.raises(ValueError, match=r"sgd-0123456789ab: edited or damaged \(its trial is"):
        Store.read(tmp_path, IDENTITY)


@pytest.mark.parametrize("name", ["result.json", "curves.json.gz"])
def test_a_half_written_trial_is_named(stored, tmp_path, name):
    """One that a copy of the store was cut short in."""
    (stored / name).unlink()
    words = rf"{TRIAL.folder}: half-written or damaged \({re.escape(name)}.*delete this folder"
    with pytest.raises(ValueError, match=words):
        Store.read(tmp_path, IDENTITY)


def test_edited_curves_are_named_when_they_are_read(stored, tmp_path):
    """Opening ten thousand trials reads none of their curves; whoever reads one looks at it."""
    content = bytearray((stored / "curves.json.gz").read_bytes())
    content[-5] ^= 1
    (stored / "curves.json.gz").write_bytes(content)
    result = Store.read(tmp_path, IDENTITY).get(TRIAL)
    with pytest.raises(ValueError, match=rf"{TRIAL.folder}: curves.*hash does not match"):
        result.curves()


def test_reading_writes_nothing(tmp_path):
    """Looking into a store that is not there does not make one."""
    assert Store.read(tmp_path / "none", IDENTITY).results == []
    with pytest.raises(ValueError, match=r"none: holds no store"):
        Store.read(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 128 KiB at this path; remount it read-only with ``read_only()``."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(path)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if sys.platform != "linux" or not mount("-o", "size=128k"):
        pytest.skip("only root may mount a small disk")
    yield path, lambda: mount("-o", "remount,ro")
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_said_and_leaves_the_stored_whole(small_disk):
    """Neither half a trial nor half a table: the same command goes on once there is room."""
    path, _ = small_disk
    with Store.open(path, IDENTITY) as store:
        put(store)
        store.write("leaderboard.md", "a table")
        draw = random.Random(0)
        large = tuple(draw.random() for _ in range(30_000))
        with pytest.raises(ValueError, match=r"disk: cannot be written \(No space left.*make room"):
            put(store, losses=large)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left"):
            store.write("leaderboard.md", "x" * 200_000)
        assert store.get(TRIAL).record.status == "done"
    assert (path / "leaderboard.md").read_text() == "a table"
    names = {"leaderboard.md", "lock", "store.json", "trials"}
    assert {file.name for file in path.iterdir()} == names
    with Store.open(path, IDENTITY) as store:
        assert [file.name for file in (path / "trials").iterdir()] == [TRIAL.folder]
        assert store.get(TRIAL).curves().losses == [3.0, 2.0]


def test_a_read_only_store_is_refused_and_still_read(small_disk):
    """Said before any work, with the reason."""
    path, read_only = small_disk
    with Store.open(path, IDENTITY) as store:
        put(store)
    assert read_only()
    with (
        pytest.raises(ValueError, match=r"disk: cannot be written \(Read-only file.*--store"),
        Store.open(path, IDENTITY),
    ):
        pass
    assert Store.read(path, IDENTITY).get(TRIAL).final


@pytest.mark.parametrize("failing", range(1, 9))
def test_whatever_flush_fails_the_earlier_result_stays(tmp_path, monkeypatch, failing):
    """A disk may fail at any moment of replacing a trial."""
    with Store.open(tmp_path, IDENTITY) as store:
        put(store, status="error", reason="x")
        put(store, seeded(7))
        calls = iter(range(1, 100))
        real = {name: getattr(os, name) for name in ("fsync", "rename")}

        def counted(name):
            def call(*arguments):
                if next(calls) == failing:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real[name](*arguments)

            return call

        for name in real:
            monkeypatch.setattr(os, name, counted(name))
        with pytest.raises(ValueError, match="cannot be written"):
            put(store)
        monkeypatch.undo()
    ids = {result.trial.id for result in Store.read(tmp_path).results}
    assert ids == {TRIAL.id, seeded(7).id}


def test_a_folder_that_a_killed_process_was_replacing_comes_back(stored, tmp_path):
    """Between two renames the earlier result has another name for a moment."""
    stored.rename(stored.with_name(f".tmp-{TRIAL.folder}-earlier"))
    with Store.open(tmp_path, IDENTITY) as store:
        assert store.get(TRIAL) is not None
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [TRIAL.folder]


HOLDER = """
import sys, time
from pathlib import Path
from store_setup import IDENTITY
from optbench_llm.leaderboard.store import Store
with Store.open(Path(sys.argv[1]), IDENTITY) as store:
    store.scratch_folder("half-written")
    print("open", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has the store in ``tmp_path`` open, with a half-written trial in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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
        Store.open(tmp_path, IDENTITY),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    time.sleep(0.05)
    with Store.open(tmp_path, IDENTITY):
        assert list((tmp_path / "trials").iterdir()) == []


def test_a_recipes_trial_is_found_by_any_recipe_that_means_it(tmp_path):
    """The id is of what decides the result, not of the recipe that asked."""
    changes = {"seeds": [7, 42], "optimizers": ["sgd", ENTRY.spec], "limits.trial_timeout_s": 7.0}
    other = override(RECIPE, changes)
    with Store.open(tmp_path, IDENTITY) as store:
        put(store)
        assert store.get(trial_of(other, other.optimizers[1], 0.1, 42)) is not None
