"""What a recipe says is what its trials do, and what their rows tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from leaderboard_bench import TRAINING, Bench
from recording import Seen, record

from optbench_llm.leaderboard.recipe import TrainingSettings

LR = 0.5
#: Of the 80 records: 0.2 validate, 0.05 test.
TRAIN_BLOCKS = 60


@dataclass(frozen=True)
class Trial:
    """One finished trial: what was seen of it from inside, and its row."""

    seen: Seen
    row: dict[str, Any]

    @property
    def lrs(self) -> list[float]:
        return [step.lr for step in self.seen.steps]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def run(bench: Bench, training: dict[str, Any], spec: str = "recording:SGD", lr: float = LR) -> Any:
    """The one trial of a recipe with these training settings."""
    with pytest.MonkeyPatch.context() as patch:
        seen = record(patch)
        board = bench.board(bench.recipe({"spec": spec, "lr": lr}, training=training))
    (row,) = board.to_dict()["rows"]
    assert row["status"] == "done", row["reason"]
    return Trial(seen, row)


#: Two recipes without a common value, neither of them a default where the other is not.
ONE = {
    "max_steps": 5,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "schedule": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.25,
    "max_grad_norm": 0.125,
    "precision": "bf16",
    "eval_batch_size": 2,
    "max_eval_blocks": 5,
}
OTHER = {
    "max_steps": None,
    "num_train_epochs": 0.1,
    "batch_size": 2,
    "schedule": "cosine",
    "weight_decay": None,
    "max_grad_norm": 0,
    "precision": "fp32",
    "eval_batch_size": 5,
    "max_eval_blocks": None,
}


def count_steps(trial: Trial) -> tuple[int, int]:
    return trial.row["steps"], len(trial.seen.steps)


def train_blocks(trial: Trial) -> list[int]:
    return trial.seen.blocks(training=True)


def eval_blocks(trial: Trial) -> list[int]:
    return trial.seen.blocks(training=False)


#: Of each training setting: what to look at, and what must be there under ONE and OTHER.
SEEN: dict[str, tuple[Callable[[Trial], Any], Any, Any]] = {
    "max_steps": (count_steps, (5, 5), (3, 3)),
    "num_train_epochs": (lambda t: sum(train_blocks(t)), 5 * 6, 0.1 * TRAIN_BLOCKS),
    "batch_size": (lambda t: set(train_blocks(t)), {3}, {2}),
    "gradient_accumulation_steps": (lambda t: len(train_blocks(t)), 2 * 5, 3),
    "schedule": (
        lambda t: t.lrs[-3:],
        pytest.approx([LR, LR * 2 / 3, LR * 1 / 3]),
        pytest.approx([LR, LR * 3 / 4, LR * 1 / 4]),
    ),
    "warmup_steps": (lambda t: t.lrs[:2], [0.0, LR / 2], pytest.approx([LR, LR * 3 / 4])),
    # Null leaves an optimizer its own, which is 0 for torch's SGD.
    "weight_decay": (lambda t: t.seen.steps[0].weight_decays, (0.25, 0.0), (0.0, 0.0)),
    "max_grad_norm": (
        lambda t: [step.norm for step in t.seen.steps],
        pytest.approx([0.125] * 5, rel=1e-4),
        # Unclipped, they are above transformers' default of 1.
        pytest.approx([6.0] * 3, abs=4.9),
    ),
    "precision": (lambda t: {one.autocast for one in t.seen.passes}, {torch.bfloat16}, {None}),
    # Of the validation split and, after it, of the test split, which has 4.
    "eval_batch_size": (eval_blocks, [2, 2, 1, 2, 2], [5, 5, 5, 1, 4]),
    "max_eval_blocks": (lambda t: sum(eval_blocks(t)), 5 + 4, 16 + 4),
}


@pytest.fixture(scope="module")
def one(bench: Bench) -> Trial:
    return run(bench, ONE)


@pytest.fixture(scope="module")
def other(bench: Bench) -> Trial:
    return run(bench, OTHER)


@pytest.mark.parametrize("setting", TrainingSettings.model_fields)
def test_a_training_setting_reaches_the_trial(one, other, setting):
    """As its optimizer and its model see it, not as the recipe or the row repeats it."""
    look, of_one, of_other = SEEN[setting]
    assert look(one) == of_one
    assert look(other) == of_other


def test_a_constant_schedule_warms_up(bench):
    """transformers' own "constant" would not."""
    trial = run(bench, {"schedule": "constant", "warmup_steps": 2, "max_steps": 4})
    assert trial.lrs == [0.0, LR / 2, LR, LR]


def test_a_batch_in_parts_trains_as_a_whole_one(bench):
    """Two batches of 2 accumulated are one of 4: as many steps, over as many tokens."""
    parts = run(bench, {"batch_size": 2, "gradient_accumulation_steps": 2}).row
    whole = run(bench, {"batch_size": 4}).row
    assert (parts["steps"], parts["tokens"]) == (whole["steps"], whole["tokens"])
    # Other dropout, the same blocks.
    assert parts["first_loss"] == pytest.approx(whole["first_loss"], rel=0.05)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_worker_tells_how_many_steps_a_trial_takes(bench, accumulation):
    """The progress bar of a budget in epochs ends where the trial does."""
    training = {
        "max_steps": None,
        "num_train_epochs": 0.3,
        "batch_size": 4,
        "gradient_accumulation_steps": accumulation,
    }
    found = run(bench, training).row["steps"]
    assert found < TRAIN_BLOCKS / 4
    assert bench.steps(bench.recipe("sgd", training=training)) == found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_stands_still_keeps_the_untouched_eval_loss(bench, precision):
    """Rows and the baseline beside them are measured alike: split, blocks and precision."""
    still = run(bench, {"precision": precision}, "sgd", lr=1e-30)
    path = bench.recipe("sgd", training={"precision": precision})
    assert still.row["eval_loss"] == bench.untouched_eval_loss(path)


def test_rows_settings_reach_their_optimizers(bench):
    """The lr that a row sets, the one declared and scaled, and arguments of its own."""
    path = bench.recipe(
        "sgd",
        {"spec": "adam", "lr": 0.25, "args": {"eps": 0.5, "weight_decay": 0.0625}},
        training={},
        lr_scale=0.5,
    )
    rows = {row["optimizer"]: row for row in bench.board(path).to_dict()["rows"]}
    (decaying, other) = rows["sgd"]["hyperparameters"]
    assert rows["sgd"]["lr"] == decaying["lr"] == other["lr"] == 0.05
    assert (decaying["weight_decay"], other["weight_decay"]) == (TRAINING["weight_decay"], 0.0)
    (decaying, other) = rows["adam"]["hyperparameters"]
    assert rows["adam"]["lr"] == decaying["lr"] == other["lr"] == 0.25
    assert decaying["eps"] == other["eps"] == 0.5
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.0625, 0.0)


def test_a_seed_decides_batches_and_dropout(bench):
    """Each seed is a trial of its own, the same for all optimizers, and a row is their mean."""
    rows = {}
    for seed in (1, 2):
        path = bench.recipe({"spec": "sgd", "lr": 1e-30}, "adam", training={}, seeds=[seed])
        rows |= {(row["optimizer"], seed): row for row in bench.board(path).to_dict()["rows"]}
    assert rows["sgd", 1]["batches_hash"] == rows["adam", 1]["batches_hash"]
    assert rows["sgd", 1]["first_loss"] == rows["adam", 1]["first_loss"]
    assert rows["sgd", 1]["batches_hash"] != rows["sgd", 2]["batches_hash"]
    # All blocks in one batch: only the dropout is another.
    path = bench.recipe("sgd", training={"batch_size": TRAIN_BLOCKS, "max_steps": 1}, seeds=[1, 2])
    (row,) = bench.board(path).to_dict()["rows"]
    first, second = (run["train_loss"] for run in row["seeds"])
    assert 1e-5 < abs(first - second) < 0.1
    assert row["train_loss"] == pytest.approx((first + second) / 2)


def test_a_trial_leaves_no_trace_in_the_next(bench):
    """The same trial before and after others, one of them diverged: equal to the last bit."""
    again = {"spec": "adam", "lr": 0.01}
    before, after = (
        next(r for r in bench.board(path).to_dict()["rows"] if r["optimizer"] == "adam")
        for path in (
            bench.recipe(again, training={}),
            bench.recipe({"spec": "sgd", "lr": 1e18}, "lion", again, training={}),
        )
    )
    measured = ("train_loss", "first_loss", "last_loss", "eval_loss", "batches_hash", "tokens")
    assert [after[key] for key in measured] == [before[key] for key in measured]
