"""`torchrun -m optbench_llm.finetune`: DDP, FSDP2, a process killed, resumed by more or fewer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_setup import assert_same_weights
from two_processes import on_two

from optbench_llm import finetune
from optbench_llm.models import load_model
from optbench_llm.training.checkpoints import latest_checkpoint

# Each starts processes that load torch.
pytestmark = pytest.mark.slow

STEPS, SAVE_EVERY = 12, 4
#: Its orthogonalisation in bf16 magnifies the noise of fp32 sums, less so in short steps.
MUON = ("--optim", "muon", "--lr", "0.002")
ADAN = ("--optim", "adan", "--train-sampling-strategy", "sequential")
ENVIRONMENT = {
    **os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(torch.get_num_threads())
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Alpaca-format file of short records."""
    records = [
        {"instruction": f"Add {a} to {b}.", "input": "", "output": f"The sum is {a + b}."}
        for a in range(10)
        for b in range(12)
    ]
    file = tmp_path_factory.mktemp("data") / "sums.json"
    file.write_text(json.dumps(records))
    return file


def flags(data: Path, folder: Path, batch: int, *more: str) -> list[str]:
    """Of a run with this batch in each process."""
    return [
        "--data", str(data), "--output-dir", str(folder), "--max-steps", str(STEPS),
        "--block-size", "96", "--per-device-train-batch-size", str(batch),
        "--save-steps", str(SAVE_EVERY), "--lr-scheduler-type", "constant", *more,
    ]  # fmt: skip


def torchrun(words: list[str]) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launch, "-m", "optbench_llm.finetune", *words]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def assert_equal_runs(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Up to the order of sums in fp32, which training magnifies."""
    assert found["tokens"] == expected["tokens"]
    assert found["steps"] == expected["steps"] == STEPS
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-3)
    assert found["state_bytes_per_param"] == pytest.approx(
        expected["state_bytes_per_param"], rel=0.01
    )


def process_of_rank(rank: int, parent: int) -> int:
    """The process that torchrun gave a rank."""
    while True:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
                ancestor = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if ancestor == parent and f"RANK={rank}".encode() in variables:
                return int(folder.name)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run on one process, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    finetune.main(flags(data, folder, 4, *MUON, "--use-cpu"))
    return folder


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run under DDP that the command itself has given two processes."""
    folder = tmp_path_factory.mktemp("replicated") / "run"
    command = [sys.executable, "-m", "optbench_llm.finetune", "--num-processes", "2"]
    done = subprocess.run(
        [*command, *flags(data, folder, 1, *ADAN)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "adan: done" in done.stdout
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a sharded run on two processes."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    on_two(finetune.main, flags(data, folder, 2, *MUON, "--fsdp2"))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a sharded run whose second process was killed after the first checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    command = torchrun(flags(data, folder, 2, *MUON, "--fsdp2"))
    run = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    victim = process_of_rank(1, run.pid)
    saved = folder / f"checkpoint-{SAVE_EVERY}" / "trainer_state.json"
    while not saved.exists():
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    os.kill(victim, signal.SIGKILL)
    assert run.wait(timeout=60) != 0
    assert not (folder / "result.json").exists()
    return folder


def interrupted(folder: Path, run: Path) -> Path:
    """A copy of a run as it would be had it ended after the checkpoint before its last."""
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / f"checkpoint-{STEPS}")
    return folder


def test_ddp_is_one_process(tmp_path, data, replicated):
    """Half the batch each: losses, tokens and the evaluation are those of one process."""
    finetune.main(flags(data, tmp_path / "one", 2, *ADAN, "--use-cpu"))
    assert_equal_runs(result(replicated), result(tmp_path / "one"))


def test_ddp_goes_on_bit_for_bit(tmp_path, data, replicated):
    """On as many processes; on one of them up to the order of sums."""
    folder = interrupted(tmp_path / "two", replicated)
    on_two(finetune.main, flags(data, folder, 1, *ADAN, "--resume"))
    assert result(folder)["losses"] == result(replicated)["losses"]
    assert_same_weights(
        load_file(folder / "model.safetensors"), load_file(replicated / "model.safetensors")
    )
    folder = interrupted(tmp_path / "one", replicated)
    finetune.main(flags(data, folder, 2, *ADAN, "--use-cpu", "--resume"))
    assert_equal_runs(result(folder), result(replicated))


def test_sharded_is_one_process(alone, sharded):
    """The matrices stepped by one process each, the rest in parts; the same model saved."""
    assert_equal_runs(result(sharded), result(alone))
    found, expected = (load_file(run / "model.safetensors") for run in (sharded, alone))
    # transformers writes the tied weight of a sharded model twice.
    assert torch.equal(found.pop("lm_head.weight"), found["transformer.wte.weight"])
    assert found.keys() == expected.keys()
    start = load_model("optbench:tiny-gpt2").model.state_dict()
    off = sum((found[name] - weights).square().sum() for name, weights in expected.items())
    moved = sum((start[name] - weights).square().sum() for name, weights in expected.items())
    assert 0 < off < 1e-3 * moved


def test_sharded_run_goes_on_after_a_kill(tmp_path, data, sharded, killed):
    """From its last checkpoint, on as many processes: the uninterrupted run, bit for bit."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    on_two(finetune.main, flags(data, folder, 2, *MUON, "--fsdp2", "--resume"))
    for name in ("losses", "eval_loss", "tokens", "batches_hash", "state_bytes_per_param"):
        assert result(folder)[name] == result(sharded)[name]
    assert_same_weights(
        load_file(folder / "model.safetensors"), load_file(sharded / "model.safetensors")
    )


def test_one_process_goes_on_with_a_sharded_run(tmp_path, data, alone, killed):
    """With twice the batch: the checkpoint is as one process would have written it."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    finetune.main(flags(data, folder, 4, *MUON, "--use-cpu", "--resume"))
    assert_equal_runs(result(folder), result(alone))


def test_two_processes_go_on_with_a_run_of_one(tmp_path, data, alone):
    """Sharded from the checkpoint on."""
    folder = interrupted(tmp_path / "run", alone)
    on_two(finetune.main, flags(data, folder, 2, *MUON, "--fsdp2", "--resume"))
    assert_equal_runs(result(folder), result(alone))


def test_more_processes_than_data_are_refused(tmp_path):
    """Before the earlier run in the folder is overwritten."""
    data, folder = tmp_path / "data.json", tmp_path / "run"
    records = [{"instruction": f"Say {i}.", "output": f"{i}"} for i in range(3)]
    data.write_text(json.dumps(records))
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    command = [sys.executable, "-m", "optbench_llm.finetune", "--num-processes", "2"]
    done = subprocess.run(
        [*command, *flags(data, folder, 1, "--optim", "adamw", "--overwrite")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-4000:]
    assert "the train split has 1 blocks, fewer than the 2 processes" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["result.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("launched", ["by the command", "by torchrun"])
def test_a_signal_ends_all_processes_in_one_line(tmp_path, data, number, launched):
    """Said once, by the command or else by the first process, and a folder to resume from."""
    folder = tmp_path / "run"
    words = [*flags(data, folder, 1, *ADAN), "--max-steps", "5000"]
    command = [sys.executable, "-m", "optbench_llm.finetune", "--num-processes", "2", *words]
    run = subprocess.Popen(
        command if launched == "by the command" else torchrun(words),
        env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ranks = [process_of_rank(rank, run.pid) for rank in (0, 1)]
    while latest_checkpoint(folder) is None:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert errors.count("--resume goes on from the last checkpoint") == 1
    if launched == "by the command":
        assert run.returncode == 128 + number
        assert "Traceback" not in errors
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_sharding_needs_processes(tmp_path, data, capsys):
    """And says how to start them."""
    with pytest.raises(SystemExit) as stopped:
        finetune.main(flags(data, tmp_path / "run", 4, *MUON, "--fsdp2"))
    assert stopped.value.code == 2
    assert "--num-processes" in capsys.readouterr().err
