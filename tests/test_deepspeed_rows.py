"""DeepSpeed's ZeRO-1 and 2 on two processes: every row steps as on one, or says why it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from deepspeed_rows import STAGES, train, train_all
from training_setup import assert_same_weights, tiny_gpt2, weights
from two_processes import on_two

import optbench_llm as ob

pytest.importorskip("deepspeed")

# A training run of every row, three times.
pytestmark = pytest.mark.slow

ROWS = ob.list_optimizers()
#: How far from one process, over the way moved, where it is more than noise of float32.
TOLERANCES = {
    # Divisions by numbers near zero magnify the noise.
    "adagrad": 0.1, "laprop": 0.1,
    # Its blocks of 256 are those of one flat parameter.
    "lion-8bit": 0.3,
}  # fmt: skip


def refusal(name: str) -> str | None:
    """A pattern of what is to be said to a row that ZeRO cannot run."""
    info = ob.optimizer_info(name)
    if info.scope != "element":
        return f"'{name}' needs whole tensors .*'{info.scope}'.*DDP"
    if info.program is not None:
        return f"'{info.program}' does not run under DeepSpeed; use DDP"
    if info.rule is not None and info.rule_class().evaluation_point is not None:
        return f"'{name}' is evaluated and saved at another point.*FSDP2"
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("zero")
    on_two(train_all, folder, ROWS, ACCELERATE_USE_CPU="false", CUDA_VISIBLE_DEVICES="")
    return folder


@pytest.mark.shows("DeepSpeed ZeRO-1/2")
@pytest.mark.parametrize("name", ROWS)
def test_two_processes_step_as_one_or_refuse(tmp_path, folder, name, record_property):
    """Both stages end at the weights of one process with the same batch; none refuses midway."""
    expected = refusal(name)
    if expected is None:
        train(tmp_path, name)
        alone = torch.load(tmp_path / f"{name}-0-0.pt", weights_only=True)
    for stage in STAGES:
        first, second = (
            torch.load(folder / f"{name}-{stage}-{rank}.pt", weights_only=True) for rank in (0, 1)
        )
        if expected is not None:
            assert re.search(expected, first["refused"])
            assert first == second
            assert first["steps"] == 0
            record_property("refused", first["refused"])
            continue
        assert_same_weights(first["weights"], second["weights"])
        assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        # It steps inside backward, where nobody can time it.
        assert first["step_ms"] is None
        assert alone["step_ms"] > 0
        begun = weights(tiny_gpt2())
        off = sum((first["weights"][n] - w).square().sum() for n, w in alone["weights"].items())
        moved = sum((begun[n] - w).square().sum() for n, w in alone["weights"].items())
        assert float(off / moved) ** 0.5 < TOLERANCES.get(name, 1e-3)
