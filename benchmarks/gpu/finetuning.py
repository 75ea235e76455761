"""`finetune` of the embedded model in the ways people train: plain, bf16, resumed, by programs."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gpu.report import Report
from optbench_llm.finetune import finetune, parse_arguments

DATA = Path(__file__).parents[2] / "tests" / "alpaca_sample.json"
STEPS = 20
SAVED_AT = 10
RUNS = {
    "plain": ["--optim", "adamw"],
    "bf16": ["--optim", "adamw", "--bf16"],
    "sam": ["--optim", "sam+adamw"],
    "sophia": ["--optim", "sophia"],
    "lion-8bit": ["--optim", "lion-8bit"],
}
#: Of a resumed run's last loss, beside that of the run that went through: a GPU adds in any order.
RESUMED = 1e-3
KEPT = (
    "status", "reason", "engine", "first_loss", "last_loss", "eval_loss", "steps",
    "optimizer_step_ms", "first_step_ms", "tokens_per_s", "peak_mem_bytes", "train_wall_s",
)  # fmt: skip


def run(report: Report, device: str) -> None:
    """Every run must end, with losses that are numbers and fall."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in RUNS}
        for name, flags in RUNS.items():
            keep(report, name, trained(folders[name], flags, device))
        whole = report.numbers["plain"]["last_loss"]
        forget_the_end(folders["plain"])
        resumed = trained(folders["plain"], [*RUNS["plain"], "--resume"], device)
        keep(report, "resumed", resumed)
        if not abs(resumed["last_loss"] / whole - 1) <= RESUMED:
            report.find(f"resumed: last loss {resumed['last_loss']}, in one go {whole}")


def trained(folder: Path, flags: list[str], device: str) -> dict[str, Any]:
    """The result of a run into a folder."""
    flags = [
        *flags, "--output-dir", str(folder), "--data", str(DATA), "--max-steps", str(STEPS),
        "--save-steps", str(SAVED_AT), "--per-device-train-batch-size", "4", "--block-size", "128",
        "--report-to", "none", *(["--use-cpu"] if device == "cpu" else []),
    ]  # fmt: skip
    return finetune(*parse_arguments(flags))


def forget_the_end(folder: Path) -> None:
    """Leave of a run what an interruption would have left."""
    shutil.rmtree(folder / f"checkpoint-{STEPS}")
    (folder / "result.json").unlink()


def keep(report: Report, name: str, result: dict[str, Any]) -> None:
    """Record a run, and find what must not be of it; a record has None for NaN."""
    report.record(name, {key: result[key] for key in KEPT})
    if result["status"] != "done":
        report.find(f"{name}: {result['status']}, {result['reason']}")
    elif not (result["last_loss"] or math.nan) < result["first_loss"]:
        report.find(f"{name}: loss {result['first_loss']} at first, {result['last_loss']} at last")
