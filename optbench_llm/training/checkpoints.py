"""Which checkpoint an interrupted run goes on from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
)

_FOLDER = re.compile(r"checkpoint-(\d+)$")
#: What a run goes on with beside its weights, and the beginnings of the names of the files and
#: folders that hold it: transformers' own, accelerate's FSDP plugin's, DeepSpeed's.
NEEDED = {
    OPTIMIZER_NAME: ("optimizer", "global_step"),
    SCHEDULER_NAME: (SCHEDULER_NAME, "global_step"),
    TRAINER_STATE_NAME: (TRAINER_STATE_NAME,),
    "rng_state.pth": ("rng_state",),
}


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """All checkpoints of a run, complete or not, by step."""
    found = [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and _FOLDER.search(p.name)]
    return sorted(found, key=_step)


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Newest checkpoint to go on from; None where a run must start from its beginning.

    A checkpoint that a kill cut short is passed over: its state is written last. So is one at the
    run's last step, since the Trainer always takes a step after a resume.
    """
    folders = reversed(checkpoint_folders(output_dir))
    return next((folder for folder in folders if _why_not(folder) is None), None)


def can_resume(output_dir: Path) -> bool:
    """Whether an interrupted run in this folder can go on from a checkpoint."""
    newest = latest_checkpoint(output_dir)
    return newest is not None and not _missing(newest)


def check_resumable(checkpoint: Path) -> None:
    """Raise ValueError unless a run can go on from this checkpoint."""
    why_not = _why_not(checkpoint)
    if why_not is not None:
        raise ValueError(f"cannot resume from {checkpoint}: {why_not}")
    check_whole(checkpoint)


def check_whole(checkpoint: Path, *, scales_loss: bool = False) -> None:
    """Raise ValueError for a checkpoint that lacks what a run goes on with, or was cut short.

    ``scales_loss`` says that a run under fp16 goes on. Of files only ends and headers are read.
    """
    missing = _missing(checkpoint)
    if scales_loss and not (checkpoint / SCALER_NAME).exists():
        missing.append(SCALER_NAME)
    if missing:
        raise ValueError(f"cannot resume from {checkpoint}: {_without(missing)}")
    damaged = (file.name for file in sorted(checkpoint.glob("*")) if not _is_whole(file))
    name = next(damaged, None)
    if name is not None:
        raise ValueError(
            f"cannot resume from {checkpoint}: its {name} is damaged or cut short; delete this"
            " checkpoint to go on from the one before it, if there is one"
        )


def _missing(checkpoint: Path) -> list[str]:
    """What a run needs to go on where it was, and the checkpoint does not have."""
    names = [path.name for path in checkpoint.iterdir()] if checkpoint.is_dir() else []
    return [
        what
        for what, prefixes in NEEDED.items()
        if not any(name.startswith(prefix) for name in names for prefix in prefixes)
    ]


def _without(missing: list[str]) -> str:
    return (
        f"it lacks {', '.join(missing)}, so that the run could not go on as it was (checkpoints"
        " saved with save_only_model hold weights alone); to train its weights further in a new"
        " run, load the model from that folder"
    )


def _is_whole(file: Path) -> bool:
    if file.name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        return is_zipfile(file)
    if file.suffix != ".safetensors":
        return True
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False


def _why_not(folder: Path) -> str | None:
    state = _state(folder)
    if state is None:
        return f"it has no readable {TRAINER_STATE_NAME}, as a complete checkpoint has"
    if state["global_step"] >= state["max_steps"]:
        return f"its run was at the last of {state['max_steps']} steps"
    return None


def _step(folder: Path) -> int:
    found = _FOLDER.search(folder.name)
    assert found is not None
    return int(found.group(1))


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
