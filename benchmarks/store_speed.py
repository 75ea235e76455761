"""How long a store of 10,000 trials takes to open, to read all curves of, and to grow by one.

    python benchmarks/store_speed.py                # 10,000 trials
    python benchmarks/store_speed.py --trials 500   # a quick look

The trials are invented: 150 losses and 759 losses of test records each, as in ``tiny-tuned``.
Opening checks the hash, the id and the types of every ``result.json``; the hash of a trial's curves
is looked at when they are read. Writes ``benchmarks/results/store_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.environment import Environment, this_environment
from optbench_llm.leaderboard.identity import Identity, identity
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import Inputs, TrialSpec
from optbench_llm.leaderboard.trial_files import result_files
from optbench_llm.run_record import Curves, RunRecord

BOUND_S = 2.0
STEPS, RECORDS, ROWS = 150, 759, 60
RESULT = Path(__file__).parent / "results" / "store_speed.json"
IDENTITY: Identity = identity(load_recipe("tiny-gpt2"), Inputs("model", "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--openings", type=int, default=5, help="the median of so many is told")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        fill(path, options.trials)
        openings = [timed(lambda: Store.read(path, IDENTITY)) for _ in range(options.openings)]
        store = Store.read(path, IDENTITY)
        assert len(store.results) == options.trials
        curves_s = timed(lambda: [result.curves() for result in store.results])
        put_s = time_puts(path, options.trials, 50)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    report = {
        "command": "python benchmarks/store_speed.py",
        "trials": options.trials,
        "losses_of_each": STEPS,
        "test_losses_of_each": RECORDS,
        "bytes_of_each": size // options.trials,
        "open_s": statistics.median(openings),
        "open_s_of_each_opening": openings,
        "bound_s": BOUND_S,
        "read_all_curves_s": curves_s,
        "put_ms": 1000 * put_s,
        "environment": as_values(this_environment()),
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if report["open_s"] > BOUND_S:
        raise SystemExit(f"opening took {report['open_s']:.2f} s, more than {BOUND_S} s")


def trials(start: int, count: int) -> Iterator[tuple[TrialSpec, RunRecord]]:
    """Invented trials with records of the usual size."""
    for number in range(start, start + count):
        draw = random.Random(number)
        trial = TrialSpec(
            spec=f"optimizer{number % ROWS}",
            hyperparameters={"betas": [0.9, 0.999]},
            lr=10 ** draw.uniform(-5, -1),
            seed=number // ROWS,
            schedule="cosine",
            weight_decay=0.1,
            rule_version="1",
            engine="compiled",
            planned_steps=13 * STEPS,
        )
        losses: list[float | None] = [draw.uniform(2, 5) for _ in range(STEPS)]
        test_losses: list[float | None] = [draw.uniform(1, 6) for _ in range(RECORDS)]
        group = {"elements": 1474560, "lr": trial.lr, "betas": [0.9, 0.999], "eps": 1e-8}
        record = RunRecord(
            status="done", reason=None, optimizer=trial.spec, lr=trial.lr, seed=trial.seed,
            steps=STEPS, train_loss=draw.uniform(2, 5), first_loss=losses[0],
            last_loss=losses[-1], eval_loss=draw.uniform(2, 5), test_loss=draw.uniform(2, 5),
            tokens=30000, tokens_per_s=draw.uniform(500, 2000), optimizer_step_ms=draw.random(),
            first_step_ms=draw.random(), compile_s=0.0, extra_passes=0.0, state_bytes=11878400,
            state_bytes_per_param=8.0, peak_mem_bytes=720945152, train_wall_s=draw.random(),
            eval_wall_s=draw.random(), batches_hash="8952123aef75848e6377a9857b084d22",
            hyperparameters=[group, {**group, "weight_decay": 0.0}], engine="compiled",
            parameters=1484800,
            curves=Curves(losses, None, test_losses, [draw.randrange(5, 60) for _ in test_losses]),
        )  # fmt: skip
        yield trial, record


def fill(path: Path, count: int) -> None:
    """Write a store without flushing every file to the disk, which here is no one's concern."""
    with Store.open(path, IDENTITY):
        pass
    environment = this_environment()
    for trial, record in trials(0, count):
        folder = path / "trials" / trial.folder
        folder.mkdir()
        for name, content in result_files(trial, record, 30.0, environment).items():
            (folder / name).write_bytes(content)


def time_puts(path: Path, start: int, count: int) -> float:
    """Median seconds of putting one more trial, with all its flushing."""
    environment = this_environment()
    with Store.open(path, IDENTITY) as store:
        times = [
            timed(lambda trial=trial, record=record: store.put(trial, record, 30.0, environment))
            for trial, record in trials(start, count)
        ]
    return statistics.median(times)


def timed(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def as_values(environment: Environment) -> dict[str, Any]:
    return {key: value for key, value in asdict(environment).items() if value is not None}


if __name__ == "__main__":
    main()
