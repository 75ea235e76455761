"""Merging stores: all trials of all, and nothing that cannot be ranked together."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run_here
from store_setup import ENTRY, ENVIRONMENT, IDENTITY, INPUTS, RECIPE, TRIAL, put, record, seeded

from optbench_llm.leaderboard.identity import Identity, identity
from optbench_llm.leaderboard.merge import Merged, merge
from optbench_llm.leaderboard.recipe import OptimizerEntry, override
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.run_record import Curves


def make_store(path: Path, *trials, identity: Identity = IDENTITY, **changes) -> Path:
    """A store with a finished run of each trial."""
    with Store.open(path, identity) as store:
        for trial in trials:
            put(store, trial, **changes)
    return path


@pytest.fixture
def paths(tmp_path):
    """Folders for two stores and their merger."""
    return tmp_path / "a", tmp_path / "b", tmp_path / "c"


def test_a_merged_store_holds_all_of_all(paths):
    """Trials to the byte, rows once in their order, what either knows of the untouched model."""
    a, b, c = paths
    make_store(a, seeded(1), seeded(2))
    make_store(b, seeded(2), seeded(3))
    sgd = OptimizerEntry.model_validate("sgd")
    with Store.open(a, IDENTITY) as store:
        store.add_rows([ENTRY])
        store.put_untouched(Untouched(eval_loss=4.5))
    with Store.open(b, IDENTITY) as store:
        store.add_rows([sgd, ENTRY])
        store.put_untouched(Untouched(4.75, 5.5))
    assert merge([a, b], c) == Merged(trials=3, shared=1)
    merged = Store.read(c, IDENTITY)
    assert {result.trial.seed for result in merged.results} == {1, 2, 3}
    assert merged.rows == [ENTRY, sgd]
    assert merged.untouched == Untouched(4.5, 5.5)
    for source, seed in ((a, 1), (b, 3)):
        for name in ("result.json", "curves.json.gz"):
            one, other = (p / "trials" / seeded(seed).folder / name for p in (source, c))
            assert one.read_bytes() == other.read_bytes()


def test_a_store_may_grow_by_another_and_a_merge_be_repeated(paths):
    """A merge that was cut short is called again; the target may be one of the merged."""
    a, b, c = paths
    make_store(a, seeded(1))
    make_store(b, seeded(2))
    assert merge([a, b], c) == Merged(trials=2, shared=0)
    assert merge([a, b], c) == Merged(trials=2, shared=2)
    assert len(Store.read(c).results) == 2
    assert merge([a, b], a) == Merged(trials=2, shared=0)
    assert len(Store.read(a).results) == 2
    assert len(Store.read(b).results) == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (identity(RECIPE, replace(INPUTS, model_fingerprint="m")), 'model: "m" there'),
        (identity(RECIPE, replace(INPUTS, data_fingerprint="d")), 'data: "d" there'),
        (
            identity(override(RECIPE, {"training.max_steps": 7}), INPUTS),
            rf"training.max_steps: 7 there, {RECIPE.training.max_steps} in .*a",
        ),
    ],
)
def test_stores_that_cannot_be_ranked_together_are_refused(paths, other, words):
    """The difference is told, and nothing is written."""
    a, b, c = paths
    make_store(a, seeded(1))
    make_store(b, seeded(2), identity=other)
    with pytest.raises(ValueError, match=words):
        merge([a, b], c)
    assert not c.exists()


def test_of_two_equal_results_the_first_is_kept_with_its_times(paths):
    """What a trial cost depends on the machine, what it gave must not."""
    a, b, c = paths
    make_store(a, TRIAL, tokens_per_s=1.0, curves=Curves([3.0, math.nan]))
    make_store(b, TRIAL, tokens_per_s=2.0, curves=Curves([3.0, math.nan]))
    assert merge([a, b], c) == Merged(trials=1, shared=1)
    assert Store.read(c).get(TRIAL).record.tokens_per_s == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_loss": math.nextafter(2.5, 3)}, r"train_loss 2\.5 in .*a, 2\.50+4 in .*b"),
        ({"eval_loss": 2.0}, r"eval_loss 2\.25 in .*a, 2\.0 in .*b"),
        ({"test_loss": 2.0}, r"test_loss 2\.125 in .*a, 2\.0 in .*b"),
        ({"status": "diverged"}, "status 'done' in .*a, 'diverged' in .*b"),
        ({"curves": Curves([3.0, 2.0], None, [1.25], [7])}, "losses of single steps or records"),
        (
            {"eval_loss": 2.0, "engine": "compiled"},
            r"eval_loss 2\.25.*engine eager in .*a, compiled in .*b",
        ),
    ],
)
def test_two_results_of_one_trial_that_differ_are_refused(paths, changes, words):
    """To the last bit, also where an engine may be why; the trial and both losses are named."""
    a, b, c = paths
    make_store(a, seeded(1), TRIAL)
    make_store(b, TRIAL, **changes)
    with pytest.raises(ValueError, match=rf"{re.escape(TRIAL.folder)}.*{words}.*delete"):
        merge([a, b], c)
    assert Store.read(c, IDENTITY).results == []


def test_another_engine_with_the_same_losses_is_the_same_result(paths):
    """An engine is how a trial is run, not what it is."""
    a, b, c = paths
    make_store(a, TRIAL, engine="compiled")
    make_store(b, replace(TRIAL, engine="eager"), engine="eager")
    merge([a, b], c)
    assert Store.read(c).get(TRIAL).record.engine == "compiled"


@pytest.mark.parametrize("first_is_final", [True, False])
def test_a_final_result_takes_the_place_of_a_failed_one(paths, first_is_final):
    """Whichever store it stands in: time, memory and Ctrl-C may not come back."""
    a, b, c = paths if first_is_final else (paths[1], paths[0], paths[2])
    make_store(a, TRIAL)
    make_store(b, TRIAL, status="timeout", train_loss=None)
    merge(sorted([a, b]), c)
    assert Store.read(c).get(TRIAL).record.status == "done"
    merge([a, b], b)
    assert Store.read(b).get(TRIAL).record.status == "done"


def test_results_of_two_kinds_of_devices_are_not_merged(paths):
    """No board goes on from one kind on the other, and so none is made of both."""
    a, b, c = paths
    make_store(a, TRIAL)
    with Store.open(b, IDENTITY) as store:
        elsewhere = replace(ENVIRONMENT, device="H100", device_type="cuda")
        store.put(seeded(7), record(), 1.0, elsewhere)
    with pytest.raises(ValueError, match=r"different devices: cpu in .*a, cuda in .*b"):
        merge([a, b], c)
    assert Store.read(c, IDENTITY).results == []


def test_edited_curves_are_not_merged(paths):
    """What is copied is whole."""
    a, b, c = paths
    make_store(a, TRIAL)
    make_store(b, seeded(7))
    file = b / "trials" / seeded(7).folder / "curves.json.gz"
    shutil.copy(a / "trials" / TRIAL.folder / "result.json", file)
    with pytest.raises(ValueError, match="hash does not match"):
        merge([a, b], c)


def test_the_command_says_what_it_did(paths):
    """One line; a refusal is one line too, with exit code 2."""
    a, b, c = paths
    make_store(a, seeded(1))
    make_store(b, seeded(1), seeded(2))
    done = run_here("merge", str(a), str(b), "--into", str(c))
    assert done.returncode == 0
    assert done.stdout == f"{c} holds 2 trials; 1 were in several stores\n"
    refused = run_here("merge", str(a), "--into", str(c))
    assert refused.returncode == 2
    assert "two stores or more" in refused.stderr
