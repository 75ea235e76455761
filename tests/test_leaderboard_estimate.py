"""What a dry run says of cost, also where a model's files are broken."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.estimate import Estimate, estimate
from optbench_llm.leaderboard.model_size import ModelSize, model_size
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.store import Store
from optbench_llm.models.locate import tiny_gpt2_folder


def test_the_size_of_a_folder_is_read_from_its_headers():
    """Parameters, and what activations follow from."""
    size = model_size("optbench:tiny-gpt2")
    assert size is not None
    assert (size.width, size.layers, size.vocabulary) == (128, 6, 2048)
    assert 1e6 < size.parameters < 2e6
    assert model_size("random:gpt2") is None


def test_memory_grows_with_the_batch_and_never_falls_below_a_bare_process(tmp_path):
    """The libraries alone take about half a GiB, and larger batches keep more for later."""
    recipe = load_recipe("tiny-gpt2")
    peaks = []
    for batch_size in (8, 800):
        plan = make_plan(override(recipe, {"training.batch_size": batch_size}))
        peaks.append(estimate(plan, Store.read(tmp_path / "none", plan.identity), 1).mem_bytes)
    assert 0.5 * 2**30 < peaks[0] < 2**30 < 2 * peaks[0] < peaks[1]


def estimated(folder: Path, workers: int = 1, **changes: Any) -> Estimate:
    """What a dry run says of the default recipe with three rows and these changes."""
    rows = {"optimizers": ["sgd", "lion", "adan"]}
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    plan = make_plan(override(load_recipe("tiny-gpt2"), {**rows, **dotted}))
    return estimate(plan, Store.read(folder / "none", plan.identity), workers)


@pytest.mark.parametrize(
    ("times", "changes"),
    [
        (10_000, {"training__max_steps": 300_000}),
        (10_000, {"training__batch_size": 80_000}),
        (10_000, {"training__gradient_accumulation_steps": 10_000}),
        (500, {"training__max_steps": 300, "seeds": [*range(50)]}),
    ],
)
def test_time_grows_with_all_that_is_to_be_done(tmp_path, times, changes):
    """In proportion, whatever there is more of."""
    base = {"training__max_eval_blocks": 1, "training__max_steps": 30}
    little, much = estimated(tmp_path, **base), estimated(tmp_path, **{**base, **changes})
    # A worker's start, about 8 s, comes once; other work disturbs what speed is calibrated on.
    assert times / 4 < (much.wall_s - 8) / (little.wall_s - 8) < times * 4


def test_finished_trials_tell_what_the_rest_will_take(tmp_path):
    """Their mean, for each round of as many trials as there are workers; their largest peak."""
    rows = {"optimizers": ["sgd", "lion", "adan", "adam"], "seeds": [1, 2]}
    plan = make_plan(override(load_recipe("tiny-gpt2"), rows))
    with Store.open(tmp_path / "store", plan.identity) as store:
        for trial, wall_s, peak in zip(plan.trials, (100.0, 300.0), (5e9, 3e9), strict=False):
            record = {"status": "done", "wall_s": wall_s, "peak_mem_bytes": peak}
            store.put(trial, record, [], {})
        failed = {"status": "error", "reason": "x", "wall_s": 7e7}
        store.put(plan.trials[2], failed, [], {})
        one, four = (estimate(plan, store, workers) for workers in (1, 4))
    # Six of eight are missing, the failed one among them.
    assert one.wall_s - four.wall_s == (6 - 2) * 200.0
    assert one.mem_bytes == four.mem_bytes == 5e9


def test_memory_is_that_of_the_most_demanding_row(tmp_path):
    """State by storage, and weights, gradient and libraries in each process of a trial."""
    size = model_size("optbench:tiny-gpt2")
    assert size is not None
    kept = {
        spec: estimated(tmp_path, optimizers=["sgd", spec]).mem_bytes
        for spec in ("lion@bf16", "lion@int8", "adan")
    }
    per_param = {spec: (kept[spec] - kept["lion@int8"]) / size.parameters for spec in kept}
    assert per_param == pytest.approx({"lion@bf16": 1, "lion@int8": 0, "adan": 15}, abs=1e-6)
    two = estimated(tmp_path, optimizers=["adan"], processes_per_trial=2).mem_bytes
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
    assert size == ModelSize(size.parameters)


def test_a_store_that_is_a_file_is_refused_by_a_dry_run_too(tmp_path: Path):
    """Reading finds it out, not the run hours later."""
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ValueError, match=r"file: is not a folder.*--store"):
        Store.read(path, {"name": "x"})
