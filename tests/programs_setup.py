"""A quadratic whose gradient and Hessian are known exactly, and trainers over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training_setup import common

from optbench_llm.training import OptBenchArguments, OptBenchTrainer

ROWS, COLUMNS, EXTRA = 3, 4, 5
SIZE = ROWS * COLUMNS + EXTRA
POINTS = 12


class Quadratic(nn.Module):
    """Half the mean of (w - x)' A (w - x) over a batch of x, w in a matrix and a vector.

    A is dense: its diagonal is not all there is of it.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.register_buffer("hessian", root @ root.T / SIZE + 0.1 * torch.eye(SIZE).double())
        start = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        self.matrix = nn.Parameter(start[: ROWS * COLUMNS].view(ROWS, COLUMNS).clone())
        self.vector = nn.Parameter(start[ROWS * COLUMNS :].clone())

    @property
    def point(self) -> Tensor:
        """Both parameters in one vector."""
        return torch.cat([self.matrix.flatten(), self.vector])

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        away = self.point - x
        return {"loss": 0.5 * ((away @ self.hessian) * away).sum(-1).mean()}

    def gradient(self, point: Tensor, x: Tensor) -> Tensor:
        """The gradient at a point for a batch, or at all points of a batch."""
        return self.hessian @ (point - x.mean(0))

    def split(self, point: Tensor) -> list[Tensor]:
        """A vector in the shapes of the parameters."""
        return [point[: ROWS * COLUMNS].view(ROWS, COLUMNS), point[ROWS * COLUMNS :]]


class Targets(torch.utils.data.Dataset):
    """Points to be drawn to, in float64."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(POINTS, SIZE, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return POINTS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": torch.tensor(0)}


class Remembering(OptBenchTrainer):
    """Keeps the points that each step was taken on, all its micro-batches together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[Tensor] = []

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if len(self.batches) == self.state.global_step:
            self.batches.append(inputs["x"])
        else:
            self.batches[-1] = torch.cat([self.batches[-1], inputs["x"]])
        return super().training_step(model, inputs, num_items_in_batch)


def quadratic_trainer(folder: Path, **changes: Any) -> Remembering:
    """A trainer of the quadratic without decay, clipping or schedule; ``changes`` are arguments."""
    settings = {
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        **changes,
    }
    return Remembering(
        model=Quadratic(),
        args=OptBenchArguments(**common(folder, **settings)),
        train_dataset=Targets(),
    )
