"""What state in 16 and 8 bits costs in accuracy.

    python benchmarks/storage_accuracy.py               # every row and storage
    python benchmarks/storage_accuracy.py lion adamw    # these rows alone

Trains GPT-2 in miniature as the default recipe does, twice: for 200 steps at a constant lr, whose
end is compared with fp32's, the distance relative to fp32's displacement; and once with the
recipe's own settings, for the final loss. bitsandbytes' Lion8bit stands beside ``lion``. Results in
``benchmarks/results/storage_accuracy.json`` are not measured again. Prints a Markdown table.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

import optbench_llm as ob
from optbench_llm.data import DataSettings, load_data
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.trial import trial_of
from optbench_llm.leaderboard.workbench import training_arguments
from optbench_llm.memory import storages
from optbench_llm.models import load_model
from optbench_llm.training.run import run_training

RECIPE = "tiny-gpt2"
STEPS = 200
#: Of the run whose losses stand beside the distance.
SHORT_STEPS = 30
RESULT = Path(__file__).parent / "results" / "storage_accuracy.json"
FACTS = ("train_loss", "eval_loss", "state_bytes_per_param")
BESIDE = {"lion": "lion-8bit"}


class Bench:
    """The recipe's model and data, for any optimizer."""

    def __init__(self) -> None:
        self.recipe = load_recipe(RECIPE)
        self.base = load_model(self.recipe.model)
        settings = DataSettings.model_validate(self.recipe.data.model_dump())
        splits = load_data(settings, self.base.tokenizer)
        self.splits = splits.with_eval_blocks(self.recipe.training.max_eval_blocks)
        self.start = weights(self.base.model)

    def run(self, spec: str, **changes: Any) -> tuple[dict[str, Any], torch.Tensor]:
        """A training's record, and the weights that it ended with."""
        recipe = override(self.recipe, {"optimizers": [spec]})
        (entry,) = recipe.optimizers
        training = {**recipe.training.model_dump(mode="json"), **changes}
        trial = trial_of(recipe, entry, recipe.lr_of(entry), recipe.all_seeds[0]).to_dict()
        trial |= {"max_steps": training["max_steps"]}
        trial |= {"schedule": changes.get("schedule", trial["schedule"])}
        set_seed(trial["seed"])
        model = copy.deepcopy(self.base.model)
        with tempfile.TemporaryDirectory() as folder:
            args = training_arguments(training, trial, folder)
            record = run_training(model, self.base.tokenizer, self.splits, args, evaluate=True)
        return record.to_dict(), weights(model)

    def measure(self, spec: str, exact: torch.Tensor | None) -> tuple[dict[str, Any], torch.Tensor]:
        """Distance after the long run and losses of the recipe's own; the long run's weights."""
        _, end = self.run(spec, max_steps=STEPS, schedule="constant")
        record, _ = self.run(spec, max_steps=SHORT_STEPS, warmup_steps=3)
        facts = {
            name: record[name] for name in ("train_loss", "eval_loss", "state_bytes_per_param")
        }
        if exact is not None:
            distance = (end - exact).norm() / (exact - self.start).norm()
            facts["distance"] = distance.item()
        return {"optimizer": spec, **facts}, end


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def specs_of(name: str) -> list[str]:
    """The row in fp32 and in each storage that it bears, and what stands beside it."""
    rule = ob.optimizer_info(name).rule_class()
    low = [storage for storage, refusal in storages(rule, name).items() if not refusal]
    beside = [BESIDE[name]] if name in BESIDE else []
    return [name, *(f"{name}@{storage}" for storage in low if storage != "fp32"), *beside]


def main() -> None:
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    names = sys.argv[1:] or [n for n in ob.list_optimizers("*") if ob.optimizer_info(n).rule]
    bench = Bench()
    for name in names:
        known = {row["optimizer"] for row in rows}
        missing = [spec for spec in specs_of(name) if spec not in known]
        if missing == [] or len(specs_of(name)) == 1:
            continue
        fp32, exact = bench.measure(name, None)
        rows = [row for row in rows if row["optimizer"] != name] + [fp32]
        rows += [bench.measure(spec, exact)[0] for spec in missing if spec != name]
        report = {
            "command": "python benchmarks/storage_accuracy.py",
            "recipe": RECIPE,
            "steps": STEPS,
            "environment": describe_environment(),
            "rows": sorted(rows, key=lambda row: row["optimizer"]),
        }
        RESULT.write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name} done", file=sys.stderr, flush=True)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the distance, and how far the losses are from fp32's."""
    exact = {row["optimizer"]: row for row in rows}
    lines = [
        "| optimizer | bytes/param | distance | train loss | over fp32 | eval loss | over fp32 |",
        "|---|---|---|---|---|---|---|",
    ]
    beside = {theirs: ours for ours, theirs in BESIDE.items()}
    for row in sorted(rows, key=lambda row: row["optimizer"]):
        spec = row["optimizer"]
        base = exact[beside.get(spec, spec.partition("@")[0])]
        cells = [spec, f"{row['state_bytes_per_param']:.2f}"]
        cells += [f"{100 * row['distance']:.2f} %" if "distance" in row else ""]
        for loss in ("train_loss", "eval_loss"):
            over = "" if row is base else f"{row[loss] - base[loss]:+.1e}"
            cells += [f"{row[loss]:.4f}", over]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
