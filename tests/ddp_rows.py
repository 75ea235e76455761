"""Trains GPT-2 with every row of the catalog and saves the weights; run by torchrun or alone.

python ddp_rows.py FOLDER SPEC...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from training_setup import tiny_gpt2, trainer, weights

GLOBAL_BATCH, STEPS = 8, 20


def train(folder: Path, spec: str, **changes: Any) -> None:
    """Twenty steps of two micro-batches, in double precision: there is little noise to magnify."""
    batch = GLOBAL_BATCH // 2 // int(os.environ.get("WORLD_SIZE", "1"))
    run = trainer(
        folder / "output", tiny_gpt2().double(), optim=spec, max_steps=STEPS,
        per_device_train_batch_size=batch, gradient_accumulation_steps=2,
        logging_strategy="no", engine="eager", **changes,
    )  # fmt: skip
    run.train()
    kept = {"weights": weights(run.model), "losses": run.measurements.losses}
    torch.save(kept, folder / f"{spec}-{run.args.process_index}.pt")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        train(Path(sys.argv[1]), name)
