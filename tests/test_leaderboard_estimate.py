"""What a dry run says of cost: by stored trials, by measured steps, and by a model's headers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import sys
from typing import Any

import pytest

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.environment import this_environment
from optbench_llm.leaderboard.estimate import (
    Costs,
    RowLeft,
    all_costs,
    kind_of,
    kinds,
    rows_left,
    stored_costs,
)
from optbench_llm.leaderboard.local import LocalSite
from optbench_llm.leaderboard.measure import STEPS, Measured, Measurement, measure
from optbench_llm.leaderboard.memory_estimate import estimated_mem_bytes
from optbench_llm.leaderboard.model_size import ModelSize, model_size
from optbench_llm.leaderboard.plan import Plan, make_plan
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe, load_recipe, override
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import Inputs, trial_of
from optbench_llm.models.locate import tiny_gpt2_folder
from optbench_llm.run_record import RunRecord

TUNED = override(load_recipe("tiny-tuned"), {"optimizers": ["sgd", "adamw", "lion"]})


def left_of(recipe: Recipe, results: dict[str, TrialResult] | None = None) -> list[RowLeft]:
    """What is still to run of a recipe whose model and data are any."""
    plan = Plan(recipe, Inputs("model", "data"))
    return rows_left(plan, Agenda(plan, results or {}))


def result(
    recipe: Recipe, entry: OptimizerEntry, lr: float, seed: int = 0, **changes: Any
) -> TrialResult:
    """A finished trial of this machine: 10 s of training, and 2 s beside."""
    trial = trial_of(recipe, entry, lr, seed)
    record = RunRecord(
        status=changes.pop("status", "done"),
        reason=None,
        optimizer=entry.spec,
        lr=lr,
        seed=seed,
        steps=changes.pop("steps", 100),
        eval_loss=changes.pop("eval_loss", 3.0),
        test_loss=changes.pop("test_loss", None),
        train_wall_s=10.0,
        peak_mem_bytes=changes.pop("peak_mem_bytes", None),
    )
    environment = dataclasses.replace(this_environment(), **changes)
    return TrialResult(trial, record, 12.0, environment)


def test_all_trials_of_a_whole_search_are_counted():
    """Eight lrs and five seeds for each row and the twin, and two lengths more of the baseline."""
    rows = left_of(TUNED)
    assert [(row.entry.spec, row.place) for row in rows] == [
        ("sgd", 0), ("adamw", 1), ("adamw", 1), ("lion", 2),
    ]  # fmt: skip
    assert [len(row.steps) for row in rows] == [13, 23, 13, 13]
    assert [row.steps.count(75) for row in rows] == [0, 5, 0, 0]
    assert [row.steps.count(300) for row in rows] == [0, 5, 0, 0]


def test_what_is_stored_is_not_counted_again():
    """But what was interrupted is."""
    entry = TUNED.optimizers[0]
    done = result(TUNED, entry, TUNED.lr_of(entry))
    stopped = result(TUNED, entry, TUNED.lr_of(entry) * 10, status="interrupted")
    rows = left_of(TUNED, {one.trial.id: one for one in (done, stopped)})
    assert [len(row.steps) for row in rows] == [12, 23, 13, 13]
    declared = override(TUNED, {"track": "declared"})
    first = result(declared, entry, declared.lr_of(entry), seed=1)
    assert [len(row.steps) for row in left_of(declared, {first.trial.id: first})] == [4, 5, 5]


def test_time_is_shared_by_workers_and_waits_for_the_longest():
    """The sum of all trials over the workers, and the end, when one is alone."""
    cost = {kind_of(TUNED.optimizers[0]): Measured(step_s=0.5, other_s=5.0)}
    costs = Costs(cost, steps=100, start_s=8.0)
    row = RowLeft(TUNED.optimizers[0], 0, (None, None, 200))
    assert costs.trials_s(row) == [55, 55, 105]
    assert costs.wall_s([row], 1) == 8 + 215
    assert costs.wall_s([row], 2) == 8 + 215 / 2 + 105 / 2
    complete = RowLeft(TUNED.optimizers[2], 2, ())
    assert costs.wall_s([row, complete], 1) == costs.wall_s([row], 1)
    assert costs.wall_s([complete], 2) == 0


def test_finished_trials_of_this_machine_tell_what_their_row_takes(monkeypatch):
    """The median step, of any length of run, and what does not grow with it; no failed trial."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sgd, adamw, lion = TUNED.optimizers
    trials = [
        result(TUNED, sgd, 0.1, peak_mem_bytes=5),
        result(TUNED, sgd, 0.2, peak_mem_bytes=7),
        result(TUNED, sgd, 0.3, steps=1000),
        result(TUNED, sgd, 0.4, steps=1, status="timeout"),
        result(TUNED, adamw, 0.1, processor="another"),
        result(TUNED, lion, 0.1, threads=64),
    ]
    costs = stored_costs(TUNED, trials, LocalSite(2).threads(1))
    assert costs == {kind_of(sgd): Measured(step_s=0.1, other_s=2.0, peak_mem_bytes=7)}
    assert costs[kind_of(sgd)].trial_s(300) == pytest.approx(32)


def test_a_row_that_fails_is_taken_at_the_slowest_and_told():
    """Stored trials go before measured ones."""
    sgd, adamw, lion = (kind_of(entry) for entry in TUNED.optimizers)
    stored = {sgd: Measured(1.0, 0.0)}
    measured = {sgd: Measured(9.0, 0.0), adamw: Measured(2.0, 0.0)}
    measurement = Measurement(measured, {lion: "no"}, 9, 3.0)
    costs = all_costs(kinds(TUNED.optimizers), stored, measurement, 150)
    assert costs.of_kind == {sgd: stored[sgd], adamw: Measured(2, 0), lion: Measured(2, 0)}
    assert costs.start_s == 3.0
    assert costs.basis == (
        "1 row from finished trials",
        "1 row from two eager steps each (compiled ones take less)",
        "lion as the slowest, its steps failed: no",
    )
    with pytest.raises(ValueError, match="no row could be measured: no"):
        all_costs(kinds(TUNED.optimizers[2:]), {}, measurement, 150)


def test_each_kind_of_row_is_measured_in_workers():
    """A slow row is told from a fast one, whole splits from their parts, and a fault from both."""
    slow = {"spec": "measured_optimizers:Slow", "lr": 0.1}
    rows = ["sgd", slow, {"spec": "measured_optimizers:Broken", "lr": 0.1}]
    changes = {"optimizers": rows, "training.batch_size": 2, "training.max_eval_blocks": 64}
    recipe = override(load_recipe("tiny-gpt2"), changes)
    plan = make_plan(recipe)
    told: list[str] = []
    measured = measure(plan, kinds(recipe.optimizers), LocalSite(), told.append)
    sgd, slow_one, raises = (kind_of(entry) for entry in recipe.optimizers)
    assert measured.of_kind.keys() == {sgd, slow_one}
    assert measured.of_kind[slow_one].step_s > measured.of_kind[sgd].step_s + 0.2
    assert measured.of_kind[sgd].other_s > 0
    assert "broken" in measured.failed[raises]
    assert measured.steps == recipe.training.max_steps != STEPS
    assert measured.start_s > 0
    assert "sgd (1 of 3)" in told


def test_the_size_of_a_folder_is_read_from_its_headers():
    """Parameters, and what activations follow from."""
    size = model_size("optbench:tiny-gpt2")
    assert size is not None
    assert (size.width, size.layers, size.vocabulary) == (128, 6, 2048)
    assert 1e6 < size.parameters < 2e6
    assert model_size("random:gpt2") is None


def memory(**changes: Any) -> float:
    """What a worker may need for the default recipe with these changes."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = override(load_recipe("tiny-gpt2"), dotted)
    found = estimated_mem_bytes(recipe, recipe.optimizers)
    assert found is not None
    return found


def test_memory_grows_with_the_batch_and_never_falls_below_a_bare_process():
    """The libraries alone take about half a GiB, and larger batches keep more for later."""
    small, large = (memory(training__batch_size=size) for size in (8, 800))
    assert 0.5 * 2**30 < small < 2**30 < 2 * small < large


def test_memory_is_that_of_the_most_demanding_row():
    """State by storage, and weights, gradient and libraries in each process of a trial."""
    size = model_size("optbench:tiny-gpt2")
    assert size is not None
    kept = {spec: memory(optimizers=["sgd", spec]) for spec in ("lion@bf16", "lion@int8", "adan")}
    per_param = {spec: (kept[spec] - kept["lion@int8"]) / size.parameters for spec in kept}
    assert per_param == pytest.approx({"lion@bf16": 1, "lion@int8": 0, "adan": 15}, abs=1e-6)
    two = memory(optimizers=["adan"], processes_per_trial=2)
    assert two - kept["adan"] > 0.5 * 2**30 + (12 + 16) * size.parameters - 1


@pytest.mark.parametrize(
    "header",
    [b"", b"abc", struct.pack("<Q", 2**60), struct.pack("<Q", 2) + b"[]", b"\x08" + bytes(15)],
)
def test_a_broken_safetensors_header_is_named(tmp_path, header):
    """A half-finished download is told by its file, not by a traceback."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_gpt2_folder(), folder)
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"model\.safetensors: is no whole safetensors file"):
        model_size(str(folder))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nonsense" * 8])
def test_a_broken_gguf_file_is_named(tmp_path, content):
    """Whatever its reader stumbles over."""
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf: is no whole GGUF file"):
        model_size(str(path))


def test_without_gguf_one_is_told_what_to_install(tmp_path, monkeypatch):
    """The package is an extra."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="pip install gguf"):
        model_size(str(tmp_path / "model.gguf"))


def test_without_a_width_there_is_a_size_without_activations(tmp_path):
    """A config of an unknown kind costs the estimate a term, not its life."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_gpt2_folder(), folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "other"}))
    size = model_size(str(folder))
    assert size is not None
    assert size == ModelSize(size.parameters)
