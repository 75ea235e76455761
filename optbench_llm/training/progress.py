"""What a fine-tuning run shows in the terminal: the optimizer, progress, one line at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback, TrainingArguments

from optbench_llm.create import effective_hyperparameters
from optbench_llm.engine import RuleOptimizer
from optbench_llm.training.optimizer_clock import unwrapped


class Beginning(TrainerCallback):
    """Tells the user's input, all of it read when the first step begins, from what follows."""

    is_over = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """All that can be wrong with the input has shown."""
        self.is_over = True


class FinetuneProgress(TrainerCallback):
    """Prints the effective settings of each parameter group, then a line per logging interval."""

    def __init__(self, console: Console, args: TrainingArguments) -> None:
        self._console = console
        self._optim = args.optim
        self._every = 1
        self._total = 0
        self._started = time.perf_counter()
        self._first: int | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Show what the optimizer does to which parameters."""
        self._every, self._total = state.logging_steps, state.max_steps
        self._started = time.perf_counter()
        inner = unwrapped(optimizer)
        self._console.print(settings_table(str(self._optim), inner))
        if isinstance(inner, RuleOptimizer):
            self._console.print(f"engine: {inner.engine} ({inner.engine_reason})")

    def on_step(self, step: int, loss: float) -> None:
        """Print the loss of a step, and how long the rest will take."""
        self._first = step if self._first is None else self._first
        if step % self._every and step not in (1, self._total):
            return
        per_step_s = (time.perf_counter() - self._started) / (step - self._first + 1)
        left_s = per_step_s * (self._total - step)
        self._console.print(f"step {step}/{self._total}  loss {loss:.4f}  {left_s:.0f} s left")


#: What a group holds beside settings: how weights lie, and the lr before a warm-up.
NOT_SHOWN = ("parts", "conv1d", "embeds", "initial_lr")


def settings_table(optim: str, optimizer: Any) -> Table:
    """Effective hyperparameters, one column for the parameter groups that have the same."""
    shown = _alike(effective_hyperparameters(optimizer), optimizer)
    table = Table("", *(f"group {i}" for i in range(len(shown))), title=f"optimizer {optim}")
    for name in dict.fromkeys(name for group in shown for name in group):
        table.add_row(name, *(str(group.get(name, "")) for group in shown))
    return table


def _alike(groups: list[dict[str, Any]], optimizer: Any) -> list[dict[str, Any]]:
    """The settings of all groups, those that are equal but for their role as one."""
    estimates = getattr(getattr(optimizer, "rule", None), "carry", {})
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        hidden = (*NOT_SHOWN, *estimates, "elements", "role")
        settings = {name: value for name, value in group.items() if name not in hidden}
        # A warm-up has already set the lr of the first step.
        settings["lr"] = group.get("initial_lr", group.get("lr"))
        roles = [group["role"]] if "role" in group else []
        known = merged.setdefault(repr(settings), {"elements": 0, "role": [], **settings})
        known["elements"] += group["elements"]
        known["role"] += [role for role in roles if role not in known["role"]]
    for group in merged.values():
        roles = group["role"]
        if roles:
            group["role"] = ", ".join(roles)
        else:
            del group["role"]
    return list(merged.values())


def result_line(result: Mapping[str, Any]) -> str:
    """One line: status, losses, speed and state."""
    if result["status"] != "done":
        return f"{result['optimizer']}: {result['status']}, {result['reason']}"
    passes = 1 + result["extra_passes"] if result["extra_passes"] else None
    parts = {
        "train loss": (result["train_loss"], ".4f", ""),
        "eval loss": (result["eval_loss"], ".4f", ""),
        "lr": (result["lr"], "g", ""),
        "steps": (result["steps"], "d", ""),
        "passes": (passes, ".3g", " a step"),
        "speed": (result["tokens_per_s"], ".0f", " tokens/s"),
        "optimizer": (result["optimizer_step_ms"], ".1f", " ms/step"),
        "state": (result["state_bytes_per_param"], ".2f", " bytes/parameter"),
    }
    shown = [f"{k} {v:{spec}}{unit}" for k, (v, spec, unit) in parts.items() if v is not None]
    return f"{result['optimizer']}: done, {', '.join(shown)}"
