"""Trains GPT-2 with programs for some steps and saves the weights; run by torchrun or alone.

python ddp_programs.py FOLDER SPEC...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from training_setup import tiny_gpt2, trainer, weights

GLOBAL_BATCH = 8
#: What the two runs could only agree in if they drew the same labels or masks is left out.
SETTINGS = {
    "sam+adamw": {"rho": 0.1},
    "sophia-h": {"k": 1},
    "adahessian": {"k": 2, "lr": 0.01, "hvp": "finite-difference"},
    "svrg+sgd": {"snapshot_period": 2},
}


def train(folder: Path, spec: str) -> None:
    """Three steps of one spec."""
    run = trainer(
        folder / "output", tiny_gpt2(), optim=spec, optim_args=SETTINGS[spec], max_steps=3,
        per_device_train_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        logging_strategy="no",
    )  # fmt: skip
    run.train()
    kept = {"weights": weights(run.model), "passes": run.measurements.passes}
    torch.save(kept, folder / f"{spec}-{run.args.process_index}.pt")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        train(Path(sys.argv[1]), name)
