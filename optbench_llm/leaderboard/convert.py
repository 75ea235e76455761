"""Turn a store of format 1 into one of format 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.identity import Identity
from optbench_llm.leaderboard.optimizer_settings import rule_version
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe, TrainingSettings
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.trial import Inputs, TrialSpec, canonical_hash
from optbench_llm.run_record import RunRecord


def convert(old: Path, into: Path) -> int:
    """Put the trials of a store of format 1 into one of format 2; returns how many they are.

    ``old`` is only read. Its trials count as results of the optimizers' rules as they are now, for
    format 1 kept no version of them; they have no test loss. Its tables are not taken: the next
    leaderboard writes them anew. ``into`` is a new folder or a store of the same model, data and
    training, in which results that are there and final stay.

    Raises:
        ValueError: ``old`` is no store of format 1, or is damaged, or ``into`` cannot take it.
    """
    values = _object(old / "recipe.json") if (old / "recipe.json").is_file() else None
    if values is None or (old / "store.json").exists():
        raise ValueError(f"store {old}: is no store of format 1 (recipe.json, no store.json)")
    try:
        training = TrainingSettings.model_validate(values["training"])
        inputs = Inputs(values["model"], values["data"])
        # Enough of the recipe to tell which rows differ from what it says for all.
        recipe = Recipe.model_construct(
            lr=values["lr"], lr_scale=values["lr_scale"], training=training
        )
    except KeyError as error:
        raise ValueError(f"{old / 'recipe.json'}: damaged (no key {error})") from error
    except ValidationError as error:
        fault = first_fault(error, "training")
        raise ValueError(f"{old / 'recipe.json'}: damaged ({fault})") from None
    folders = sorted(path.parent for path in (old / "trials").glob("[!.]*/result.json"))
    trials = [_read_trial(folder) for folder in folders]
    identity = Identity(inputs, training, values.get("processes_per_trial", 1))
    with Store.open(into, identity) as store:
        for trial, record, wall_s, environment in trials:
            there = store.get(trial)
            if there is None or not there.final:
                store.put(trial, record, wall_s, environment)
        store.add_rows([_row(recipe, trial) for trial, *_ in trials])
        if (old / "untouched.json").exists() and store.untouched is None:
            loss = _object(old / "untouched.json").get("untouched_eval_loss")
            store.put_untouched(Untouched(eval_loss=loss))
    return len(trials)


def _read_trial(folder: Path) -> tuple[TrialSpec, RunRecord, float, Environment]:
    head = _object(folder / "result.json")
    try:
        of, record = head["trial"], dict(head["record"])
        if canonical_hash(of, 12) != head["id"]:
            raise ValueError("its id does not match")
        lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        wall_s = record.pop("wall_s", None) or 0.0
        curves = {"losses": losses, "step_passes": record.pop("step_passes", None)}
        trial = TrialSpec(
            spec=of["spec"],
            hyperparameters=of["hyperparameters"],
            lr=of["lr"],
            seed=of["seed"],
            schedule=of["training"]["schedule"],
            weight_decay=of["training"]["weight_decay"],
            rule_version=rule_version(of["spec"]),
        )
        converted = RunRecord.from_dict({**record, "curves": curves})
        return trial, converted, wall_s, Environment(**head["environment"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: damaged or not convertible ({error}); delete this folder to go on without "
            "this trial"
        ) from error


def _row(recipe: Recipe, trial: TrialSpec) -> OptimizerEntry:
    """The row that a trial belongs to, which says only what its recipe does not say for all."""
    row = OptimizerEntry.model_validate({"spec": trial.spec, "args": trial.hyperparameters})
    changes: dict[str, Any] = {}
    try:
        declared = recipe.lr_of(row)
    except ValueError:  # nothing declares one for it: the row did
        declared = None
    if declared != trial.lr:
        changes["lr"] = trial.lr
    if recipe.schedule_of(row) != trial.schedule:
        changes["schedule"] = trial.schedule
    return row.model_copy(update=changes)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: damaged (expected a JSON object)")
    return value
