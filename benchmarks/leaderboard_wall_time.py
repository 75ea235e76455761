"""Wall time of the default leaderboard against one ``optbench-llm finetune`` process for each row.

    python benchmarks/leaderboard_wall_time.py              # every row
    python benchmarks/leaderboard_wall_time.py --sample 3   # a quick look: three separate processes

Both sides train the same model on the same data for the same steps, and the script checks that
they end with the same train losses. Writes ``benchmarks/results/leaderboard_wall_time.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.cores import usable_cores
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.recipe import Recipe, load_recipe
from optbench_llm.leaderboard.trial import TrialSpec, trial_of

BOUND = 0.4
TOLERANCE = 1e-6
RESULT = Path(__file__).parent / "results" / "leaderboard_wall_time.json"
SCHEDULERS = {"constant": "constant_with_warmup"}
# Both sides get all cores, and threads that do not spin while they wait.
THREADS = str(usable_cores())
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": THREADS, "OMP_WAIT_POLICY": "PASSIVE"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tiny-gpt2")
    parser.add_argument("--sample", type=int, help="separate processes for so many rows only")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    recipe = load_recipe(options.recipe)
    trials = [
        trial_of(recipe, entry, recipe.lr_of(entry), recipe.all_seeds[0])
        for entry in recipe.optimizers
    ]
    step = max(1, len(trials) // (options.sample or len(trials)))
    chosen = trials[::step][: options.sample]
    with tempfile.TemporaryDirectory() as folder:
        # A first process fills the cache of tokenized data, which both sides then use.
        finetune(recipe, trials[0], Path(folder) / "cache", max_steps=1)
        together = time_leaderboard(options.recipe, Path(folder) / "store")
        apart = [time_finetune(recipe, trial, Path(folder)) for trial in chosen]
    check_losses(together["train_losses"], apart)
    report = summary(options, together, apart, rows=len(trials))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "separate"}, indent=2))
    if report["ratio"] > BOUND:
        raise SystemExit(f"ratio {report['ratio']:.3f} is above {BOUND}")


def time_leaderboard(recipe: str, store: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "optbench_llm", "leaderboard", recipe, "--store", str(store)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    first_row_s = None
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[") and first_row_s is None:
            first_row_s = time.monotonic() - began
    assert process.wait() == 0, "the leaderboard failed"
    wall_s = time.monotonic() - began
    rows = json.loads((store / "leaderboard.json").read_text())["rows"]
    losses = {row["optimizer"]: row["train_loss"] for row in rows}
    print(f"leaderboard: {wall_s:.1f} s, first row after {first_row_s:.1f} s", flush=True)
    return {"wall_s": wall_s, "first_row_s": first_row_s, "train_losses": losses}


def time_finetune(recipe: Recipe, trial: TrialSpec, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    out = finetune(recipe, trial, folder / trial.folder)
    wall_s = time.monotonic() - began
    loss = json.loads((out / "result.json").read_text())["train_loss"]
    print(f"finetune {trial.spec}: {wall_s:.1f} s", flush=True)
    return {"optimizer": trial.spec, "wall_s": wall_s, "train_loss": loss}


def finetune(recipe: Recipe, trial: TrialSpec, out: Path, max_steps: int | None = None) -> Path:
    """Run one trial as a user would without a leaderboard."""
    training = recipe.training.model_dump(mode="json")
    settings = {
        "optim": trial.spec,
        "lr": trial.lr,
        "model": recipe.model,
        "data": recipe.data.source,
        "prompt": recipe.data.prompt,
        "block_size": recipe.data.block_size,
        "max_eval_blocks": training["max_eval_blocks"],
        "max_steps": max_steps or training["max_steps"],
        "per_device_train_batch_size": training["batch_size"],
        "per_device_eval_batch_size": training["eval_batch_size"],
        "gradient_accumulation_steps": training["gradient_accumulation_steps"],
        "lr_scheduler_type": SCHEDULERS.get(trial.schedule, trial.schedule),
        "warmup_steps": training["warmup_steps"],
        "weight_decay": trial.weight_decay,
        "max_grad_norm": training["max_grad_norm"],
        "bf16": training["precision"] == "bf16",
        "seed": trial.seed,
        "output_dir": out,
        "save_strategy": "no",
        "report_to": "none",
    }
    given = {key: str(value) for key, value in settings.items() if value is not None}
    flags = [part for key, value in given.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "optbench_llm", "finetune", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert (out / "result.json").exists(), done.stdout + done.stderr
    return out


def check_losses(together: dict[str, float | None], apart: list[dict[str, Any]]) -> None:
    """Same settings give same losses: otherwise the two times compare different work."""
    for run in apart:
        here, there = together[run["optimizer"]], run["train_loss"]
        same = here == there or (here and there and abs(here - there) < TOLERANCE)
        assert same, f"{run['optimizer']}: {here} in the leaderboard, {there} by finetune"


def summary(
    options: argparse.Namespace, together: dict[str, Any], apart: list[dict[str, Any]], rows: int
) -> dict[str, Any]:
    mean_s = sum(run["wall_s"] for run in apart) / len(apart)
    return {
        "command": " ".join(["python", "benchmarks/leaderboard_wall_time.py", *sys.argv[1:]]),
        "recipe": options.recipe,
        "rows": rows,
        "separate_processes_run": len(apart),
        "leaderboard_wall_s": together["wall_s"],
        "leaderboard_first_row_s": together["first_row_s"],
        "separate_wall_s": mean_s * rows,
        "separate_wall_is": "measured" if len(apart) == rows else "scaled up from a sample",
        "ratio": together["wall_s"] / (mean_s * rows),
        "bound": BOUND,
        "environment": {**describe_environment(), "threads": int(THREADS)},
        "separate": apart,
    }


if __name__ == "__main__":
    main()
