"""The loss of a split, and of each of its blocks: exact, however it is batched and divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_setup import Sentences, stock_trainer, tiny_gpt2, trainer
from two_processes import on_processes

from optbench_llm.training.evaluation import SplitLoss, mean_token_loss, split_loss

BLOCKS = 13


def plainly(model: Any, blocks: Any) -> tuple[list[float], list[int]]:
    """Mean loss and trained tokens of each block, by the model's own loss of it alone."""
    losses, tokens = [], []
    model.eval()
    for block in blocks:
        batch = {name: value[None] for name, value in block.items()}
        with torch.no_grad():
            losses.append(model(**batch).loss.item())
        tokens.append(int((batch["labels"][:, 1:] != -100).sum()))
    return losses, tokens


def assert_plain(found: SplitLoss, model: Any) -> None:
    losses, tokens = plainly(model, [*Sentences(BLOCKS, seed=1)])
    assert found.block_losses == pytest.approx(losses, rel=1e-5)
    assert found.block_tokens == tokens
    mean = sum(x * n for x, n in zip(losses, tokens, strict=True)) / sum(tokens)
    assert found.mean == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_block_has_the_loss_that_it_has_alone(tmp_path, size, monkeypatch):
    """In order, whatever the batch, in pieces of few logits; the model keeps its loss."""
    monkeypatch.setattr("optbench_llm.training.evaluation._LOGITS_AT_ONCE", 700)
    run = trainer(tmp_path, per_device_eval_batch_size=size)
    before = run.model.loss_function  # pyright: ignore
    assert_plain(split_loss(run, Sentences(BLOCKS, seed=1)), run.model)
    assert run.model.loss_function is before  # pyright: ignore
    assert "_loss_function" not in vars(run.model)


def test_the_blocks_come_to_the_mean_that_the_models_own_loss_gives(tmp_path):
    """With and without blocks the mean of a split is one to 1e-6."""
    run, own = trainer(tmp_path), trainer(tmp_path)
    own.args.torch_compile = True  # it is not compiled; but so no block is looked at
    found, plain = (split_loss(r, Sentences(BLOCKS, seed=1)) for r in (run, own))
    assert plain.block_losses is None
    assert found.mean == pytest.approx(plain.mean, rel=1e-6)
    assert found.mean == mean_token_loss(run, Sentences(BLOCKS, seed=1))


def test_a_loss_that_is_the_trainers_own_has_a_mean_and_no_blocks(tmp_path):
    """Label smoothing: the logits do not tell it."""
    smoothed = split_loss(
        stock_trainer(tmp_path, label_smoothing_factor=0.1), Sentences(BLOCKS, seed=1)
    )
    plain = split_loss(stock_trainer(tmp_path), Sentences(BLOCKS, seed=1))
    assert (smoothed.block_losses, smoothed.block_tokens) == (None, None)
    assert smoothed.mean != pytest.approx(plain.mean, rel=1e-4)
    assert plain.block_losses is not None


def test_joined_blocks_are_not_taken_for_single_ones(tmp_path):
    """A collator that makes one row of two blocks leaves the mean alone."""
    run = trainer(tmp_path, per_device_eval_batch_size=2)

    def joined(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([i[name][:8] for i in items])[None] for name in items[0]}

    run.data_collator = joined
    found = split_loss(run, Sentences(8, seed=1))
    assert found.block_losses is None
    assert found.mean > 0


def test_the_place_in_a_batch_does_not_need_a_trained_token(tmp_path):
    """A block without one weighs nothing, and the others keep their places."""
    blocks = [*Sentences(4, seed=1)]
    blocks[1]["labels"] = torch.full_like(blocks[1]["labels"], -100)
    found = split_loss(trainer(tmp_path), blocks)
    assert found.block_losses is not None
    assert found.block_tokens is not None
    assert found.block_tokens[1] == 0
    losses, _ = plainly(tiny_gpt2(), blocks)
    assert found.block_losses[2:] == pytest.approx(losses[2:], rel=1e-5)


def evaluate(folder: Path, size: int) -> None:
    """In one of several processes."""
    run = trainer(folder, per_device_eval_batch_size=size)
    run.model_wrapped = run.accelerator.prepare_model(run.model, evaluation_mode=True)  # pyright: ignore
    found = split_loss(run, Sentences(BLOCKS, seed=1))
    (folder / f"{run.args.process_index}.json").write_text(json.dumps(vars(found)))


@pytest.mark.parametrize("size", [2, 8])
def test_several_processes_tell_each_block_once_and_in_order(tmp_path, size):
    """Though they take turns, and repeat rows at the end to have equally many."""
    on_processes(2, evaluate, tmp_path, size)
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2))
    assert first == second
    assert_plain(SplitLoss(**first), tiny_gpt2())
