"""alpha-SVRG's gradients: a snapshot takes part of their variance out (Yin et al. 2025)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from optbench_llm.programs.program import Program, setting
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.weights import as_parameter, moved_away, plain, put, stepped
from optbench_llm.rules.svrg import SETTINGS, SNAPSHOT, SNAPSHOT_GRADIENT
from optbench_llm.rules.wrapped import setting_name


class SVRG(Program):
    """Takes the gradient at the snapshot and corrects the step's; see `optbench_llm.rules.svrg`.

    Snapshot and mean gradient are in the optimizer's state. At a snapshot the two gradients of the
    batch are one, so that no second one is taken.
    """

    name: ClassVar[str] = "svrg"

    def check(self, trainer: Any, optimizer: Any) -> None:
        """Refuse data without an end, unless a count of batches is given."""
        settings = _settings(optimizer)
        if hasattr(trainer.train_dataset, "__len__"):
            return
        lacking = [
            name for name in ("snapshot_period", "snapshot_batches") if settings[name] is None
        ]
        if lacking:
            raise ValueError(
                f"optimizer {optimizer.spec!r} goes over the training data once an epoch, and"
                f" {type(trainer.train_dataset).__name__} does not tell where it ends; set"
                f" {' and '.join(lacking)} (steps between snapshots, batches of each), or train"
                f" on a dataset with a length"
            )

    def due(self, optimizer: Any, step: int) -> bool:
        """Before every step."""
        return True

    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Take a snapshot if it is time; correct the gradients."""
        settings = _settings(optimizer)
        period = settings["snapshot_period"] or replay.steps_per_epoch
        number, since = divmod(replay.step - 1, period)
        strength = coefficient(settings, number, -(-replay.max_steps // period))
        if strength == 0:
            return
        params = stepped(optimizer)
        if since == 0 or not any(SNAPSHOT in optimizer.state[p] for p in params):
            self._take_snapshot(replay, optimizer, params, number, settings["snapshot_batches"])
            at_snapshot = [p.grad for p in params]
        else:
            # A parameter that had no gradient at the snapshot has none: it is left alone.
            params = [p for p in params if SNAPSHOT in optimizer.state[p]]
            at_snapshot = self._gradients_at_snapshot(replay, optimizer, params)
        with torch.no_grad():
            for p, old in zip(params, at_snapshot, strict=True):
                assert p.grad is not None
                assert old is not None
                mean = as_parameter(p, optimizer.state[p][SNAPSHOT_GRADIENT])
                correction = mean.sub(old).mul_(strength)
                p.grad = p.grad + correction.to(p.dtype)

    def _take_snapshot(
        self, replay: Replay, optimizer: Any, params: list[Any], number: int, batches: int | None
    ) -> None:
        with replay.gradients_put_aside():
            means = replay.mean_gradients(params, number, batches)
        for state in optimizer.state.values():
            state.pop(SNAPSHOT, None)
            state.pop(SNAPSHOT_GRADIENT, None)
        for p, mean in zip(params, means, strict=True):
            optimizer.state[p][SNAPSHOT] = plain(p.detach()).clone()
            optimizer.state[p][SNAPSHOT_GRADIENT] = plain(mean)

    def _gradients_at_snapshot(
        self, replay: Replay, optimizer: Any, params: list[Any]
    ) -> list[torch.Tensor]:
        with replay.gradients_put_aside(), moved_away(params):
            put(params, [as_parameter(p, optimizer.state[p][SNAPSHOT]) for p in params])
            replay.repeat()
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]


def coefficient(settings: dict[str, Any], number: int, snapshots: int) -> float:
    """The coefficient after the snapshot of this ``number``, from 0, of so many."""
    linear = settings["coefficient_schedule"] == "linear"
    return settings["coefficient"] * (1 - number / snapshots if linear else 1)


def _settings(optimizer: Any) -> dict[str, Any]:
    names = {name: setting_name(optimizer.defaults, "svrg", name) for name in SETTINGS}
    return {name: setting(optimizer, own) for name, own in names.items()}
