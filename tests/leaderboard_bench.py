"""Recipes run in the process of the tests: YAML -> trials -> records -> rows -> table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import GPT2Config

from optbench_llm.leaderboard.environment import this_environment
from optbench_llm.leaderboard.make_rows import build_board
from optbench_llm.leaderboard.plan import make_plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.workbench import Workbench

#: No value is a default, of a recipe or of a Trainer: one that gets lost is missed.
TRAINING = {
    "max_steps": 4,
    "batch_size": 2,
    "schedule": "constant",
    "weight_decay": 0.125,
    "max_grad_norm": 0,
    "eval_batch_size": 4,
    "max_eval_blocks": 6,
}


def write_inputs(folder: Path, **config: Any) -> None:
    """A GPT-2 of one layer, with dropout unless ``config`` says otherwise, and 80 records."""
    made = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=2048,
        bos_token_id=0, eos_token_id=0, **config,
    )  # fmt: skip
    made.architectures = ["GPT2LMHeadModel"]
    made.to_json_file(folder / "config.json", use_diff=False)
    records = [
        {"instruction": f"Count {n}.", "output": " ".join(map(str, range(n % 9 + 2)))}
        for n in range(80)
    ]
    (folder / "records.json").write_text(json.dumps(records), encoding="utf-8")


class Bench:
    """Runs recipes over a GPT-2 of one layer, with dropout, and 80 records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_inputs(folder)
        self._warm: dict[str, Workbench] = {}
        self._boards = 0

    def recipe(self, *optimizers: Any, training: dict[str, Any], **changes: Any) -> Path:
        """A recipe file; ``training`` and ``changes`` replace what it says."""
        data = {"source": str(self.folder / "records.json"), "prompt": "inst", "block_size": 64}
        values = {
            "name": "bench",
            "version": 1,
            "description": "Trials of a moment.",
            "model": f"random:{self.folder / 'config.json'}",
            "data": {**data, "validation_fraction": 0.2},
            "training": {**TRAINING, **training},
            "seeds": [42],
            "optimizers": [*optimizers],
            **changes,
        }
        path = self.folder / "bench.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    def board(self, path: Path) -> Board:
        """The board of a recipe, all of its trials run here, one after another.

        Recipes over the same model and data share what is loaded, as trials of a worker do.
        """
        plan = make_plan(load_recipe(str(path)))
        self._boards += 1
        with Store.open(self.folder / f"store-{self._boards}", plan.identity) as store:
            environment = this_environment()
            rows = [plan.row(entry, store.by_id) for entry, _ in plan.entries()]
            for trial in (trial for row in rows for trial in row.trials):
                record = self._workbench(plan).run(trial.to_dict(), lambda step, loss: None)
                store.put(trial, record, 1.0, environment)
            return build_board(plan.recipe, rows, store.by_id, environment, store.untouched)

    def untouched_eval_loss(self, path: Path) -> float:
        """The eval loss that a worker tells of the model before any training."""
        facts = self._workbench(make_plan(load_recipe(str(path)))).facts()
        return facts["untouched_eval_loss"]

    def steps(self, path: Path) -> int:
        """How many steps a worker tells that each trial will take."""
        return self._workbench(make_plan(load_recipe(str(path)))).facts()["steps"]

    def _workbench(self, plan: Any) -> Workbench:
        setup = worker_setup(plan, self.folder, untouched=True) | {"threads": 1, "processes": 1}
        key = json.dumps(setup, sort_keys=True)
        if key not in self._warm:
            self._warm[key] = Workbench(setup)
        return self._warm[key]
