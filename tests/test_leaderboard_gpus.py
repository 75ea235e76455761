"""Each worker sees its own GPUs from its first line on; none finds memory of an earlier trial.

No GPU is needed: a process that starts is asked what it sees, and a CPU's tensors are counted.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from leaderboard_setup import Listed, trials_of, write_recipe
from marks import slow

from optbench_llm import devices
from optbench_llm.leaderboard import gpus, process, workbench
from optbench_llm.leaderboard.executor import Finished, Ready
from optbench_llm.leaderboard.gpus import own_gpus
from optbench_llm.leaderboard.local import LocalExecutor
from optbench_llm.leaderboard.plan import Plan, make_plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.process import WorkerProcess
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import Inputs
from optbench_llm.leaderboard.workbench import Workbench, is_out_of_memory

CUDA, ROCM, XPU = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"
BELOW_ROCM = "ROCR_VISIBLE_DEVICES"
VARIABLES = (CUDA, ROCM, XPU, BELOW_ROCM)
TRIALS = trials_of(Plan(load_recipe("tiny-gpt2"), Inputs("m", "d")))
#: A worker whose first lines tell what it sees; its trial ends once all workers have begun theirs.
TELLS = f"""
import json, os, sys, time
seen = {{name: os.environ[name] for name in {VARIABLES} if name in os.environ}}
loaded = [name for name in ("torch", "bitsandbytes") if name in sys.modules]
facts = dict(device="cpu", device_type="cpu", threads=1, processes=1, steps=3)
facts["data"] = json.dumps(dict(seen=seen, loaded=loaded))
print(json.dumps(dict(event="ready", facts=facts)), flush=True)
setup, _ = json.loads(sys.stdin.readline()), sys.stdin.readline()
with open(setup["begun"], "a") as file:
    file.write("x")
while os.path.getsize(setup["begun"]) < setup["workers"]:
    time.sleep(0.01)
record = dict(status="done", reason=None, optimizer="x", lr=1.0, seed=0, steps=1)
print(json.dumps(dict(event="result", record=record)), flush=True)
"""
UUIDS = ["GPU-8f2c1d3e-0a1b", "GPU-5b6a7c8d-9e0f"]
#: What Python runs in every process that finds it, before anything else.
NOTES_ITSELF = f"""
import json, os, sys
seen = {{name: os.environ[name] for name in {VARIABLES} if name in os.environ}}
line = [os.getppid(), os.environ.get("RANK"), "torch" in sys.modules, seen]
with open(os.path.join(FOLDER, str(os.getpid())), "w") as file:
    json.dump(line, file)
class Watch:
    def find_spec(name, path=None, target=None):
        if name.startswith("bitsandbytes."):
            open(os.path.join(FOLDER, name), "w").close()
sys.meta_path.insert(0, Watch)
"""


def gpus_are(monkeypatch: pytest.MonkeyPatch, variable: str, count: int, **chosen: str) -> None:
    """A machine with so many GPUs, of which the user has chosen some."""
    monkeypatch.setattr(gpus, "installed_gpus", lambda: (variable, count))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)


def facts_of_workers(folder: Path, workers: int) -> dict[int, dict[str, Any]]:
    """What each of so many processes tells of itself, by number."""
    setup = {"untouched": False, "begun": str(folder / "begun"), "workers": workers}
    events = LocalExecutor(setup, workers, folder).run(Listed(TRIALS[:workers]))
    return {e.worker: json.loads(e.facts.data) for e in events if isinstance(e, Ready)}


@pytest.mark.parametrize(
    ("variable", "count", "chosen", "workers", "expected"),
    [
        (CUDA, 2, {}, 2, ["0", "1"]),
        (CUDA, 2, {}, 1, ["0"]),
        (CUDA, 2, {}, 3, ["0", "1", "0"]),
        (CUDA, 3, {CUDA: "7, 5,3"}, 3, ["7", "5", "3"]),
        (CUDA, 2, {CUDA: ",".join(UUIDS)}, 2, UUIDS),
        # CUDA reads on to the first that there is not.
        (CUDA, 1, {CUDA: "1,9,0"}, 2, ["1", "1"]),
        (ROCM, 2, {}, 2, ["0", "1"]),
        (ROCM, 2, {ROCM: "3,2", CUDA: "3,2"}, 2, ["3", "2"]),
        (ROCM, 2, {CUDA: "6,4"}, 2, ["6", "4"]),
        (ROCM, 2, {BELOW_ROCM: "6,4", CUDA: "6,4"}, 2, ["0", "1"]),
        (XPU, 2, {XPU: "0.0,0.1"}, 2, ["0.0", "0.1"]),
    ],
)
def test_each_worker_starts_with_the_gpus_that_it_may_see(
    tmp_path, monkeypatch, variable, count, chosen, workers, expected
):
    """As its first line finds them, before torch and bitsandbytes; dealt out of the user's own."""
    gpus_are(monkeypatch, variable, count, **chosen)
    monkeypatch.setattr(process, "_WORKER", TELLS)
    ready = facts_of_workers(tmp_path, workers)
    assert [ready[number]["seen"][variable] for number in range(1, workers + 1)] == expected
    assert not any(facts["loaded"] for facts in ready.values())


def test_without_gpus_nothing_is_set(tmp_path, monkeypatch):
    """Also what the user set to see none."""
    gpus_are(monkeypatch, CUDA, 0, CUDA_VISIBLE_DEVICES="")
    monkeypatch.setattr(process, "_WORKER", TELLS)
    assert facts_of_workers(tmp_path, 1)[1]["seen"] == {CUDA: ""}


@pytest.mark.parametrize("number", [1, 2])
def test_a_worker_of_several_processes_has_a_gpu_for_each(monkeypatch, number):
    """And none of another's."""
    gpus_are(monkeypatch, CUDA, 4, CUDA_VISIBLE_DEVICES="7,5,3,1")
    assert own_gpus(number, workers=2, processes=2) == {CUDA: ["7,5", "3,1"][number - 1]}


def test_too_few_gpus_for_all_processes_are_refused(tmp_path, monkeypatch):
    """Before any worker starts; the numbers are named."""
    gpus_are(monkeypatch, CUDA, 4)
    executor = LocalExecutor({"untouched": False}, 3, tmp_path, processes=2)
    with pytest.raises(ValueError, match=r"3 workers of 2 processes each need 6 GPUs.*has 4"):
        list(executor.run(Listed(TRIALS)))
    assert not list(tmp_path.iterdir())


def test_the_driver_asks_another_process_for_the_gpus():
    """Which says what torch says there."""
    gpus.installed_gpus.cache_clear()
    assert gpus.installed_gpus() == devices.gpus()


@pytest.mark.parametrize("hip", [None, "6.4"])
def test_the_variable_is_that_of_the_device(monkeypatch, hip):
    """ROCm's builds of torch call their GPUs CUDA's, too."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.gpus() == (ROCM if hip else CUDA, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 3)
    assert devices.gpus() == (XPU, 3)


# Loads torch and the model in up to six processes.
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "expected"), [(1, ["7", "5"]), (2, ["7,5", "3,1"])])
def test_every_process_of_a_real_board_starts_with_its_workers_gpus(
    tmp_path, monkeypatch, processes, expected
):
    """Workers, torchrun and its ranks, as Python's own start-up finds it in each of them.

    None loads bitsandbytes, which its trials do not need.
    """
    gpus_are(monkeypatch, CUDA, 4, CUDA_VISIBLE_DEVICES="7,5,3,1")
    noted = tmp_path / "noted"
    noted.mkdir()
    (tmp_path / "sitecustomize.py").write_text(NOTES_ITSELF.replace("FOLDER", repr(str(noted))))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), before])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = load_recipe(str(write_recipe(tmp_path, "adamw", "sgd")))
    plan = make_plan(override(recipe, {"processes_per_trial": processes}))
    with Store.open(tmp_path / "store", plan.identity) as store:
        setup = worker_setup(plan, store.scratch_folder("workers"), untouched=True)
        executor = LocalExecutor(setup, 2, tmp_path, processes=processes)
        finished = [e for e in executor.run(Listed(trials_of(plan))) if isinstance(e, Finished)]
    assert [event.record.status for event in finished] == ["done", "done"]
    assert not list(noted.glob("bitsandbytes*"))
    seen = {int(path.name): json.loads(path.read_text()) for path in noted.iterdir()}
    workers = sorted(e[3][CUDA] for e in seen.values() if e[0] == os.getpid())
    assert workers == sorted(expected)
    ranks = sorted((e[3][CUDA], e[1]) for e in seen.values() if e[1] is not None)
    assert ranks == (
        sorted((own, rank) for own in expected for rank in ("0", "1")) if processes > 1 else []
    )
    assert not any(entry[2] for entry in seen.values())


def test_a_killed_worker_is_gone_with_all_that_it_started(tmp_path, monkeypatch):
    """Its memory is free before another begins, also that of processes in sessions of their own."""
    lingers = "import os, sys, time; child = os.fork()\nif not child:\n    os.setsid()\n"
    lingers += "    time.sleep(1); os._exit(0)\nprint(child, flush=True); time.sleep(600)"
    monkeypatch.setattr(process, "_WORKER", lingers)
    inbox: queue.Queue = queue.Queue()
    worker = WorkerProcess(1, {"threads": 1, "processes": 1}, inbox, tmp_path / "log", {})
    _, child = inbox.get(timeout=30)
    assert Path(f"/proc/{child}").exists()
    began = time.monotonic()
    worker.kill()
    assert time.monotonic() - began < 5
    # It may still be on its way out: what counts is that it has no pages any more.
    try:
        pages = Path(f"/proc/{child}/statm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        pages = "0"
    assert int(pages.split()[0]) == 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.02 GB).",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ],
)
def test_each_librarys_word_for_no_memory_is_an_oom(message):
    """They come as plain RuntimeErrors."""
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_other_faults_of_a_device_are_errors(message):
    """No larger GPU would help."""
    assert not is_out_of_memory(RuntimeError(message))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, dict[str, Any]]:
    """A workbench here, and a trial of AdamW as a dict."""
    folder = tmp_path_factory.mktemp("bench")
    plan = make_plan(load_recipe(str(write_recipe(folder, "adamw"))))
    with Store.open(folder / "store", plan.identity) as store:
        setup = {
            **worker_setup(plan, store.scratch_folder("workers"), untouched=True),
            "threads": 1,
            "processes": 1,
        }
    Path(setup["scratch"]).mkdir(parents=True, exist_ok=True)
    return Workbench(setup), trials_of(plan)[0].to_dict()


def tensor_bytes() -> int:
    """Of all tensors that Python can reach, each memory once."""
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type == "cpu":
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    "spec", ["adamw", *slow("prodigy", "muon", "lion@int8", "sam+adamw", "bnb:Lion8bit", "soap")]
)
def test_a_finished_trial_leaves_no_memory_to_the_next(bench, spec):
    """Weights, gradients and state are gone when the next one begins."""
    workbench_, trial = bench
    workbench._reset_process_state(1)
    before = tensor_bytes()
    record = workbench_.run({**trial, "spec": spec, "hyperparameters": {}}, lambda *_: None)
    assert record.status == "done"
    workbench._reset_process_state(1)
    # Less than one state of the smallest matrix.
    assert tensor_bytes() - before < 4096


def test_the_devices_cache_is_emptied_between_trials(monkeypatch):
    """After the garbage is collected that still holds its memory."""
    order = []
    monkeypatch.setattr(workbench.gc, "collect", lambda: order.append("collect"))
    monkeypatch.setattr(workbench, "free_cached_memory", lambda: order.append("free"))
    workbench._reset_process_state(1)
    assert order == ["collect", "free"]


def test_what_a_device_reports_late_fails_the_trial_that_caused_it(bench, monkeypatch):
    """Not the one that comes next."""

    def broken(device: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    workbench_, trial = bench
    monkeypatch.setattr(workbench, "synchronize", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        workbench_.run(trial, lambda *_: None)
