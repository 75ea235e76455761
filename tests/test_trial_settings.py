"""A trial trains with what its recipe and its own settings say, and is measured on both splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from leaderboard_bench import write_inputs
from torch.utils.data import DataLoader

from optbench_llm.data import DataSettings, data_fingerprint, load_data, make_collator
from optbench_llm.engine import optimizer as engine
from optbench_llm.engine.compiler import Choice
from optbench_llm.leaderboard.workbench import Workbench
from optbench_llm.models import load_model, model_fingerprint

STEPS, LR = 6, 0.5
#: All of the train split at each step: the order of its blocks has no influence then.
TRAINING = {
    "max_steps": STEPS, "num_train_epochs": None, "batch_size": 100,
    "gradient_accumulation_steps": 1, "schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.7,
    "max_grad_norm": 0.05, "precision": "fp32", "eval_batch_size": 3, "max_eval_blocks": 7,
}  # fmt: skip
TRIAL = {
    "spec": "sgd", "hyperparameters": {}, "lr": LR, "seed": 1, "schedule": "linear",
    "weight_decay": 0.0, "max_steps": None, "engine": "eager", "planned_steps": STEPS,
}  # fmt: skip


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a worker is told: a GPT-2 of one layer without dropout, and 80 records."""
    folder = tmp_path_factory.mktemp("bench")
    write_inputs(folder, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    source = {"source": str(folder / "records.json"), "prompt": "inst", "block_size": 64}
    data = DataSettings.model_validate(
        {**source, "validation_fraction": 0.2, "test_fraction": 0.25}
    )
    model = f"random:{folder / 'config.json'}"
    return {
        "inputs": {"model": model_fingerprint(model), "data": data_fingerprint(data)},
        "model": model, "data": data.model_dump(mode="json"), "training": TRAINING,
        "scratch": str(folder), "untouched": True, "threads": 1, "processes": 1,
    }  # fmt: skip


class Plain:
    """The same training in plain torch, and the same evaluation, block by block."""

    def __init__(self, setup: dict[str, Any]) -> None:
        loaded = load_model(setup["model"])
        self.model: Any = loaded.model
        self.splits = load_data(DataSettings.model_validate(setup["data"]), loaded.tokenizer)
        self.collate = make_collator(loaded.tokenizer)

    def losses(self, *, max_grad_norm: float, warmup_steps: int, precision: str) -> list[float]:
        """The loss of each step of SGD under linear decay."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)
        found = []
        for step in range(STEPS):
            rising = step / warmup_steps if warmup_steps else 1.0
            falling = (STEPS - step) / (STEPS - warmup_steps)
            optimizer.param_groups[0]["lr"] = LR * min(rising, falling)
            (batch,) = self._batches(self.splits.train, len(self.splits.train))
            rounded = torch.autocast("cpu", torch.bfloat16)
            with rounded if precision == "bf16" else nullcontext():
                loss = self.model(**batch).loss
            loss.backward()
            if max_grad_norm:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    def block_losses(self, split: Any) -> tuple[list[float], list[int]]:
        """Mean loss and trained tokens of each block by itself."""
        self.model.eval()
        with torch.no_grad():
            losses = [self.model(**batch).loss.item() for batch in self._batches(split, 1)]
        tokens = [int((b["labels"][:, 1:] != -100).sum()) for b in self._batches(split, 1)]
        return losses, tokens

    def _batches(self, split: Any, size: int) -> Iterator[dict[str, torch.Tensor]]:
        return iter(DataLoader(split, batch_size=size, collate_fn=self.collate))


def weighted(losses: list[float], tokens: list[int]) -> float:
    return sum(x * n for x, n in zip(losses, tokens, strict=True)) / sum(tokens)


def bench(setup: dict[str, Any], **training: Any) -> Workbench:
    return Workbench({**setup, "training": {**TRAINING, **training}})


def run(setup: dict[str, Any], trial: dict[str, Any], **training: Any) -> Any:
    """The record of one trial; ``training`` replaces shared settings, ``trial`` its own."""
    return bench(setup, **training).run({**TRIAL, **trial}, lambda step, loss: None)


#: A setting, and the value that a trial which ignores it may run with instead.
IGNORED = {"max_grad_norm": (0.05, 0.0), "warmup_steps": (2, 0), "precision": ("bf16", "fp32")}


@pytest.mark.parametrize("name", IGNORED)
def test_a_trial_trains_as_a_plain_loop_with_the_recipes_settings(setup, name):
    """Clipping, warm-up, precision: its losses are the loop's, and those without it are others."""
    value, ignored = IGNORED[name]
    settings = {"max_grad_norm": 0.05, "warmup_steps": 2, "precision": "fp32"}
    found = run(setup, {}, **{**settings, name: value}).curves.losses
    with_it = Plain(setup).losses(**{**settings, name: value})
    without = Plain(setup).losses(**{**settings, name: ignored})
    off = max(abs(a - b) for a, b in zip(found, with_it, strict=True))
    apart = max(abs(a - b) for a, b in zip(without, with_it, strict=True))
    assert off < apart / 10, (found, with_it, without)


def test_a_trials_own_settings_replace_the_shared_ones(setup):
    """Its schedule is above; its weight decay, and its steps."""
    record = run(setup, {"max_steps": 3, "weight_decay": 0.25})
    assert (record.steps, len(record.curves.losses)) == (3, 3)
    decays = {group["weight_decay"] for group in record.hyperparameters}
    assert decays == {0.0, 0.25}


def test_an_engine_counts_on_the_steps_of_all_trials_that_it_serves(setup, monkeypatch):
    """One warm worker compiles for a whole row: what is planned decides, not one trial's steps."""
    asked = []

    def choose(engine: str, params: Any, steps: int | None, storage: str = "fp32") -> Choice:
        asked.append((engine, steps))
        return Choice("eager", "for the test")

    monkeypatch.setattr(engine, "choose_engine", choose)
    warm = bench(setup)
    for name, planned in (("auto", 1234), ("compiled", 5)):
        record = warm.run(
            {**TRIAL, "engine": name, "planned_steps": planned}, lambda step, loss: None
        )
        assert (record.engine, record.steps) == ("eager", STEPS)
    assert asked == [("auto", 1234), ("compiled", 5)]


def test_a_trial_is_evaluated_on_both_splits_as_a_plain_loop_does(setup):
    """The first max_eval_blocks of each, every block of the test split by itself."""
    record = run(setup, {"lr": 1e-9, "max_steps": 1})
    plain = Plain(setup)
    for split, mean in (("validation", record.eval_loss), ("test", record.test_loss)):
        first = torch.utils.data.Subset(getattr(plain.splits, split), range(7))
        losses, tokens = plain.block_losses(first)
        assert mean == pytest.approx(weighted(losses, tokens), rel=1e-6)
        if split == "test":
            assert record.curves.test_losses == pytest.approx(losses, rel=1e-5)
            assert record.curves.test_tokens == tokens
            assert len(set(tokens)) > 1, "else a mean of means would do"


def test_a_worker_tells_both_losses_of_the_untouched_model(setup):
    """By which a row shows what training has won."""
    facts, plain = bench(setup).facts(), Plain(setup)
    for split, key in (("validation", "untouched_eval_loss"), ("test", "untouched_test_loss")):
        first = torch.utils.data.Subset(getattr(plain.splits, split), range(7))
        assert facts[key] == pytest.approx(weighted(*plain.block_losses(first)), rel=1e-6)


def test_without_a_test_split_there_is_no_test_loss(setup):
    """None, and no empty list that could be averaged."""
    data = DataSettings.model_validate({**setup["data"], "test_fraction": 0.0})
    inputs = {**setup["inputs"], "data": data_fingerprint(data)}
    record = run({**setup, "data": data.model_dump(mode="json"), "inputs": inputs}, {})
    assert (record.test_loss, record.curves.test_losses, record.curves.test_tokens) == (None,) * 3
    assert record.eval_loss is not None
