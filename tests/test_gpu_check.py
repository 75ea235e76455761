"""The check for GPUs: it ends in time, keeps what it has, and says what must not be."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_sections
import psutil
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def checked(
    monkeypatch: pytest.MonkeyPatch, out: Path, limit_s: float, *names: str
) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a run of these functions of `gpu_sections` as sections."""
    import gpu_check
    from gpu.sections import Section

    sections = [Section(name, f"gpu_sections:{name}", limit_s) for name in names]
    monkeypatch.setattr(gpu_check, "chosen", lambda names: sections)
    monkeypatch.setattr(gpu_check, "CPU_PATIENCE", 1)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--cpu", "--out", str(out)])
    monkeypatch.setenv(gpu_sections.OUT, str(out))
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads(out.read_text(encoding="utf-8"))


def test_one_command_checks_a_cpu(tmp_path):
    """The first section, as it is run by hand: numbers, where from, and no finding."""
    out = tmp_path / "cpu.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--cpu", "--sections", "start",
         "--out", str(out), "--commit", "abc"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("no findings")
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["findings"] == []
    assert document["commit"] == "abc"
    assert document["command"].endswith("--commit abc")
    assert {"torch", "triton", "transformers", "driver"} <= document["environment"][
        "versions"
    ].keys()
    section = document["sections"]["start"]
    assert section["rc"] == 0
    assert 0 < section["wall_s"] < section["limit_s"]
    assert section["numbers"]["copy"]["gb_per_s"] > 0
    assert section["numbers"]["first step of adamw"]["first_step_s"] > 0


def test_a_section_that_hangs_is_ended_at_its_deadline(monkeypatch, tmp_path):
    """With all that it started; what it had reported stays, and the next one runs."""
    code, document = checked(monkeypatch, tmp_path / "out.json", 5, "hang", "fine")
    hang, fine = document["sections"].values()
    assert code == 1
    assert hang["rc"] is None
    assert 5 <= hang["wall_s"] < 60
    assert hang["findings"] == ["ended at its deadline of 5 s"]
    assert gone(hang["numbers"]["child"])
    assert (fine["rc"], fine["findings"]) == (0, [])
    assert fine["numbers"]["numbers"] == {"one": 1.0, "device": "cpu"}
    assert document["findings"] == ["hang: ended at its deadline of 5 s"]


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_nan_is_a_finding_and_the_exit_code_is_1(monkeypatch, tmp_path, capsys):
    """Wherever it stands; strict JSON holds null in its place."""
    code, document = checked(monkeypatch, tmp_path / "out.json", 60, "nan")
    assert code == 1
    assert document["findings"] == ["nan: losses: step 3[1] is nan"]
    assert document["sections"]["nan"]["numbers"] == {"losses": {"step 3": [1.0, None]}}
    assert capsys.readouterr().out.rstrip().endswith("1 findings\n- nan: losses: step 3[1] is nan")


def test_a_nan_is_found_once_and_in_any_weight(tmp_path):
    """A report that is written again does not find it again; no maximum passes over it."""
    import torch
    from gpu.report import Report
    from yardstick.bench import Bench

    bench = Bench("1M")
    assert 0 < bench.largest_weight() < 1
    with torch.no_grad():
        bench.params[3].view(-1)[5] = math.nan
    report = Report(tmp_path / "report.json")
    for _ in range(2):
        report.record("weights", {"largest": bench.largest_weight()})
    assert report.findings == ["weights: largest is nan"]


def test_a_section_that_fails_is_a_finding(monkeypatch, tmp_path):
    """With its last words, and what it had reported."""
    code, document = checked(monkeypatch, tmp_path / "out.json", 60, "crash")
    section = document["sections"]["crash"]
    assert code == 1
    assert section["rc"] == 1
    assert section["findings"] == ["ended with exit code 1"]
    assert section["numbers"] == {"before": 1}
    assert section["stderr"][-1] == "RuntimeError: no kernel image"


def test_the_file_is_written_after_each_section(monkeypatch, tmp_path):
    """So that a run that is killed keeps what it has."""
    code, document = checked(monkeypatch, tmp_path / "out.json", 60, "fine", "look")
    assert code == 0
    assert document["sections"]["look"]["numbers"]["there"] == ["fine"]


def test_the_deadlines_fit_in_the_time_there_is():
    """And the page names them all."""
    from gpu.sections import LIMIT_S, SECTIONS

    assert LIMIT_S == 8 * 60
    assert sum(section.limit_s for section in SECTIONS) <= LIMIT_S - 15
    page = (BENCHMARKS / "GPU.md").read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"| `{section.name}` | {section.limit_s:g} s |" in page


def test_sections_are_chosen_by_name():
    """In their usual order; a name that is none is refused with those that are."""
    from gpu.sections import SECTIONS, chosen

    assert [one.name for one in chosen("times, start")] == ["start", "times"]
    assert chosen(None) == list(SECTIONS)
    with pytest.raises(ValueError, match="unknown section 'time', expected some of start, rows"):
        chosen("times,time")


@pytest.mark.parametrize(
    ("spec", "numbers", "finding"),
    [
        ("adamw", {"distance": 9e-6}, None),
        ("adamw", {"distance": 1.1e-5}, "distance 1.1e-05, at most 1e-05"),
        ("adamw", {"distance": math.nan}, "distance nan"),
        ("muon", {"distance": 2e-2}, None),
        ("scion", {"distance": 4e-2}, "distance 0.04, at most 0.03"),
        ("lion", {"share_beyond": 0.009}, None),
        ("grams", {"share_beyond": 0.02}, "share_beyond 0.02, at most 0.01"),
        ("adamw@bf16", {"share_beyond": 0.009}, None),
        ("adamw@bf16", {"share_beyond": 0.02}, "share_beyond"),
        ("adamw@int8", {"codes_differing": 0.009, "codes_apart": 1}, None),
        ("adamw@int8", {"codes_differing": 0.02, "codes_apart": 1}, "codes_differing"),
        ("adamw@int8", {"codes_differing": 0.001, "codes_apart": 2}, "codes_apart 2, at most 1"),
        ("prodigy", {"syncs": 1}, None),
        ("adamw", {"syncs": 2}, "syncs 2, at most 1"),
        ("soap", {"syncs": 20}, None),
    ],
)
def test_rows_have_their_tolerances(spec, numbers, finding):
    """Just within is no finding, just beyond is one."""
    from gpu.tolerances import findings_of

    found = findings_of(spec, "triton", {"distance": 0.0, "share_beyond": 0.0, **numbers})
    assert len(found) == (finding is not None)
    assert all(one.startswith(f"{spec}, triton: {finding}") for one in found)


def test_rows_of_tolerances_are_rows():
    """A row that is renamed does not fall back to another tolerance unseen."""
    from gpu import tolerances
    from oracles import CASES

    named = (
        tolerances.NEWTON_SCHULZ_ROWS,
        tolerances.SIGN_ROWS,
        tolerances.ROUNDED_ROWS,
        tolerances.FACTORISING_ROWS,
    )
    assert {name for names in named for name in names} <= CASES.keys()


def test_rows_are_compared_step_by_step(monkeypatch):
    """The same code is at distance 0, an lr that is wrong by 1e-4 is beyond every tolerance."""
    from gpu import row_process
    from gpu.tolerances import findings_of

    def faulty(params: Any, spec: str, *, engine: str, **settings: Any) -> Any:
        wrong = {**settings, "lr": settings["lr"] * 1.0001}
        return make(params, spec, engine="eager", **(wrong if engine == "wrong" else settings))

    make = row_process.make_optimizer
    monkeypatch.setattr(row_process, "make_optimizer", faulty)
    for spec in ("adamw", "lion", "adamw@int8"):
        same = row_process.compared(spec, "eager", "cpu")
        assert (same["distance"], same["share_beyond"]) == (0, 0)
        assert findings_of(spec, "eager", same) == []
        assert len(findings_of(spec, "wrong", row_process.compared(spec, "wrong", "cpu"))) == 1


def test_a_row_that_is_refused_or_fails_is_recorded(monkeypatch):
    """What the engine refuses is told apart from what goes wrong."""
    from gpu import row_process

    task = {"spec": "adamw", "engine": "steam", "device": "cpu"}
    assert row_process.result_of(task)["refused"].startswith("unknown engine 'steam'")

    def failing(*args: Any, **settings: Any) -> None:
        raise RuntimeError("misaligned address\nand more")

    monkeypatch.setattr(row_process, "make_optimizer", failing)
    assert row_process.result_of(task)["error"] == "RuntimeError: misaligned address"


def test_a_process_that_is_spoilt_is_replaced():
    """Tasks that hang or kill their process are results, and the others run."""
    from gpu.lanes import in_lanes

    todo = ("work", "work", "spoil", "work", "hang", "work", "die", "work")
    tasks = [{"do": do, "number": number} for number, do in enumerate(todo)]
    found = in_lanes(tasks, "lane_process", lanes=1, limit_s=5)
    results = [result for task, result in sorted(found, key=lambda pair: pair[0]["number"])]
    pids = [result.get("pid") for result in results]
    assert pids[0] == pids[1] == pids[2]
    assert len({pids[2], pids[3], pids[5], pids[7]}) == 4
    assert results[4] == {"error": "ended at its deadline of 5 s"}
    assert results[6] == {"error": "its process ended with exit code 3"}


def test_a_trace_is_counted():
    """Kernels wherever they ran, and waiting calls of the step alone."""
    from gpu.trace import STEP, counted

    def event(category: str, name: str, began: float, **more: Any) -> dict[str, Any]:
        return {"ph": "X", "cat": category, "name": name, "ts": began, "dur": 1.0, **more}

    events = [
        {"ph": "M", "name": "process_name"},
        event("user_annotation", STEP, 100, dur=50),
        event("gpu_user_annotation", STEP, 120, dur=80),
        event("cuda_runtime", "cudaDeviceSynchronize", 90),
        event("cuda_runtime", "cudaLaunchKernel", 110),
        event("cuda_runtime", "cudaStreamSynchronize", 120),
        event("cuda_runtime", "cudaDeviceSynchronize", 160),
        event("kernel", "adamw", 130),
        event("kernel", "adamw", 170),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 125),
    ]
    assert counted(events) == {
        "kernels": 2, "copies": 1, "fills": 0, "syncs": 1,
        "names": {"adamw": 2, "Memcpy HtoD (Pinned -> Device)": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({}, None),
        ({"queued": {"host_ms": 0.2, "device_ms": 1.4}}, "1.40 times torch:AdamW fused, queued"),
        ({"alone": {"host_ms": 0.2, "device_ms": 1.4}}, "1.40 times torch:AdamW fused, alone"),
        ({"syncs": 1}, None),
        ({"syncs": 2}, "2 syncs in a step, at most 1"),
        ({"queued": {"host_ms": 20.0, "device_ms": 1.2}}, "returned after 20.0 ms"),
        ({"queued": {"host_ms": 20.0, "device_ms": 1.2}, "kernels": 2000}, None),
        ({"reason": "RuntimeError: no"}, "RuntimeError: no"),
    ],
)
def test_steps_have_their_bounds(changes, finding):
    """AdamW beside torch's fused one, waiting calls, and a host that waits for the queue."""
    from gpu.step_times import FUSED, findings_of

    times = {"host_ms": 0.2, "device_ms": 1.2}
    ours = {"alone": times, "queued": times, "syncs": 0, "kernels": 1, **changes}
    fused = {"alone": {"device_ms": 1.0}, "queued": {"device_ms": 1.0}}
    found = findings_of("adamw", "ours, auto", {FUSED: fused, "ours, auto": ours})
    assert len(found) == (finding is not None)
    assert all(one.startswith(f"adamw, ours, auto: {finding}") for one in found)


def test_bounds_of_a_gpu_are_told_beside_what_was_measured():
    """A bound that nothing was measured for is not met."""
    from gpu.step_times import bounds

    row = {"ours, auto": {"queued": {"device_ms": 1.1}, "extra_memory_share": 0.03}}
    told = {one["bound"]: one for one in bounds({"adamw": row, "lion": {}})}
    assert told["adamw, ms"]["met"]
    assert not told["adamw, extra memory, share"]["met"]
    assert told["lion, ms"] == {
        "bound": "lion, ms", "at_most": 0.9, "measured": None, "met": False
    }  # fmt: skip
