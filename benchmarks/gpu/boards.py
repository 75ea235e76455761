"""A leaderboard of three rows, and one that runs out of memory between them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gpu.report import Report
from optbench_llm.leaderboard.board import run_leaderboard
from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.progress import PlainDisplay
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store

DATA = Path(__file__).parents[2] / "tests" / "alpaca_sample.json"
GREEDY = "gpu.greedy:Greedy"
#: What comes after the greedy one needs the memory back.
EXPECTED = {"adamw": "done", GREEDY: "oom", "lion@int8": "done", "lamb": "done"}
RECIPE = """\
name: gpu-check
version: 1
description: The embedded model for a few steps.
model: optbench:tiny-gpt2
data: {source: %s, prompt: alpaca, block_size: 128}
seeds: [42]
training: {max_steps: 10, batch_size: 4, weight_decay: null}
optimizers: [adamw, {spec: '%s', lr: 0.01}, lion@int8, lamb]
limits: {trial_timeout_s: 40}
"""
KEPT = ("status", "reason", "engine", "train_loss", "optimizer_step_ms", "peak_mem_bytes")


def run(report: Report, device: str) -> None:
    """Every row must have its status, and no number that is none."""
    with tempfile.TemporaryDirectory() as scratch:
        path, store = Path(scratch) / "gpu-check.yaml", Path(scratch) / "store"
        path.write_text(RECIPE % (DATA, GREEDY), encoding="utf-8")
        plan = make_plan(load_recipe(str(path)))
        with PlainDisplay() as display:
            run_leaderboard(plan, store, display)
        found = {r.trial.spec: r for r in Store.read(store, plan.identity).results}
    for spec, status in EXPECTED.items():
        record, device_type = found[spec].record, found[spec].environment.device_type
        report.record(spec, {key: getattr(record, key) for key in KEPT})
        if record.status != status:
            report.find(f"{spec}: {record.status} ({record.reason}), expected {status}")
        if device_type != device:
            report.find(f"{spec}: ran on {device_type}, not on {device}")
