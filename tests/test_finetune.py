"""`optbench-llm finetune`: input refused, results written, runs killed and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_setup import assert_same_weights

from optbench_llm import finetune
from optbench_llm.data.blocks import Blocks
from optbench_llm.training.checkpoints import latest_checkpoint

STEPS, SAVE_EVERY = 30, 5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small Alpaca-format file of short records."""
    records = [
        {"instruction": f"Add {a} to {b}.", "input": "", "output": f"The sum is {a + b}."}
        for a in range(10)
        for b in range(12)
    ]
    file = tmp_path / "sums.json"
    file.write_text(json.dumps(records))
    return file


def flags(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        "--data", str(data), "--output-dir", str(folder), "--max-steps", str(STEPS),
        "--block-size", "96", "--per-device-train-batch-size", "2",
        "--save-steps", str(SAVE_EVERY), *more,
    ]  # fmt: skip


def run(*words: object) -> None:
    finetune.main([str(word) for word in words])


# Starts three processes.
@pytest.mark.slow
def test_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path, data):
    """SIGKILL in the middle, then --resume: losses, weights and counts are those of one run."""
    settings = ("--optim", "adan", "--lr", "0.003", "--warmup-steps", "3", "--eval-strategy", "no")
    run(*flags(data, tmp_path / "whole", *settings))

    command = [sys.executable, "-m", "optbench_llm.finetune"]
    command += flags(data, tmp_path / "killed", *settings)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    first_save = tmp_path / "killed" / f"checkpoint-{SAVE_EVERY}" / "trainer_state.json"
    while not first_save.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    again = subprocess.run(
        [*command, "--resume"], env=environment, check=True, capture_output=True, text=True
    )
    assert f"resuming from {tmp_path}" in again.stdout.replace("\n", "")

    whole, resumed = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")
    )
    for name in ("train_loss", "losses", "eval_loss", "tokens", "batches_hash", "steps"):
        assert whole[name] == resumed[name], name
    assert len(whole["losses"]) == STEPS
    assert_same_weights(
        load_file(tmp_path / "whole" / "model.safetensors"),
        load_file(tmp_path / "killed" / "model.safetensors"),
    )


def test_result_model_and_settings_are_written(tmp_path, data, capsys):
    """The folder holds a model that loads, its tokenizer, and a result that explains itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "out"
    run("--optim", "lion", "--optim-args", "betas=(0.95,0.98)", *flags(data, folder))
    shown = capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done"
    assert result["last_loss"] < result["first_loss"]
    assert result["hyperparameters"][0]["betas"] == [0.95, 0.98]
    assert result["settings"]["optim"] == "lion"
    assert result["settings"]["data_fingerprint"]
    assert result["environment"]["versions"]["torch"] == torch.__version__
    assert "(0.95, 0.98)" in shown
    assert f"lion: done, train loss {result['train_loss']:.4f}" in shown
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "gpt2"
    assert AutoTokenizer.from_pretrained(folder).eos_token_id is not None


def test_finished_folder_is_kept_unless_asked(tmp_path, data, capsys):
    """A finished run is refused, shown under --resume, replaced under --overwrite."""
    base = flags(data, tmp_path / "out", "--max-steps", "2", "--optim", "sgd")
    run(*base)
    with pytest.raises(SystemExit) as stopped:
        run(*base)
    assert stopped.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    run(*base, "--resume")
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(*base, "--resume", "--lr", "0.5")
    assert "learning_rate=None" in capsys.readouterr().err
    run(*base, "--overwrite", "--lr", "0.5")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["lr"] == 0.5


def test_lora_writes_adapters_only(tmp_path, data):
    """--lora-r trains and saves adapters, the same ones each time; the rest is neither."""
    folder, again = tmp_path / "out", tmp_path / "again"
    for place in (folder, again):
        run("--lora-r", "4", "--optim", "adamw", *flags(data, place, "--max-steps", "2"))
    file = "adapter_model.safetensors"
    assert_same_weights(load_file(folder / file), load_file(again / file))
    result = json.loads((folder / "result.json").read_text())
    assert result["state_bytes"] == 2 * 4 * result["parameters"]
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()


def test_diverged_run_is_a_result(tmp_path, data, capsys):
    """Exit code 1, the reason in the result, and no model saved."""
    with pytest.raises(SystemExit) as stopped:
        run("--optim", "sgd", "--lr", "1e30", *flags(data, tmp_path / "out"))
    assert stopped.value.code == 1
    assert "diverged" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "diverged"
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_companion_s_settings_are_told_from_the_optimizer_s(tmp_path, data, capsys):
    """The lr of the result is the one asked for; the table has a column for each of the two."""
    folder = tmp_path / "out"
    run("--optim", "muon", "--lr", "0.01", *flags(data, folder, "--max-steps", "2"))
    shown = capsys.readouterr().out
    assert json.loads((folder / "result.json").read_text())["lr"] == 0.01
    assert "lr 0.01," in shown
    assert re.search(r"lr +│ 0\.01 +│ 0\.0003 +│\n", shown)
    assert re.search(r"role +│ matrix +│ [a-z, ]*norm, bias +│", shown)
    assert "conv1d" not in shown


def test_a_short_run_of_a_small_model_is_not_compiled(tmp_path, data, capsys):
    """The engine is chosen, and shown, by the steps of this run."""
    run(*flags(data, tmp_path / "out", "--max-steps", "2"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "engine: eager (1,484,800 elements x 2 steps do not repay compiling)" in shown


def test_estimates_are_no_settings(tmp_path, data, capsys):
    """Prodigy's table has what was chosen, not the 0 from which its estimate of d begins."""
    run("--optim", "prodigy", *flags(data, tmp_path / "out", "--max-steps", "2"))
    shown = capsys.readouterr().out
    assert re.search(r"d_coef +│ 1\.0 ", shown)
    assert "d_max" not in shown
    assert "counted" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--optim", "lionn"], "Nearest: lion,"),
        (["--optim", "hf:adamw_torch", "--optim-args", "amsgrad=True"], "amsgrad"),
        (["--optim", "adan", "--optim-args", "betas=(0.9"], "betas=(0.9"),
        (["--optim", "adan", "--optim-args", "gama=1"], "It accepts"),
        (["--optm", "adan"], "--optim"),
        (["--lora_rank", "4"], "--lora-r"),
        (["--max-steps", "many"], "--max-steps"),
        (["--lora-alpha", "4"], "--lora-r"),
        (["--block-size", "0"], "--block-size"),
        (["--resume", "--overwrite"], "exclude"),
        (["adan"], "unexpected argument 'adan'"),
        (["--data", "no/such.json"], "no/such.json"),
        (["--model", "no/such/model", "--output-dir", "OUT"], "no/such/model"),
        (["--output-dir", "/proc/nowhere"], "/proc/nowhere"),
        (["--resume-from-checkpoint", "no/checkpoint-1"], "trainer_state.json"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, says):
    """No traceback: the message names what is wrong and what was expected."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.startswith("error: ")
    assert says in message
    assert len(message.strip().splitlines()) == 1


def test_wrong_input_overwrites_nothing(tmp_path, data, capsys):
    """--overwrite clears a folder when all that is to be loaded is there."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        run(*flags(data, folder, "--overwrite", "--lora-r", "2", "--lora-target-modules", "no"))
    assert stopped.value.code == 2
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_an_error_in_mid_training_is_not_taken_for_wrong_input(tmp_path, data, monkeypatch):
    """A ValueError of the third batch keeps its traceback."""
    item, seen = Blocks.__getitem__, []

    def third_is_broken(self, index):
        seen.append(index)
        if len(seen) == 3:
            raise ValueError("broken batch")
        return item(self, index)

    monkeypatch.setattr(Blocks, "__getitem__", third_is_broken)
    with pytest.raises(ValueError, match="broken batch"):
        run(*flags(data, tmp_path / "out", "--per-device-train-batch-size", "1"))


SAID = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "interrupted by SIGTERM",
    signal.SIGHUP: "interrupted by SIGHUP",
}


@pytest.mark.parametrize("number", SAID)
def test_interrupted_run_says_how_to_go_on(tmp_path, data, capsys, number):
    """A signal after a checkpoint: one line, exit code 128 + its number, a folder to resume."""
    folder = tmp_path / "out"
    handlers = [signal.getsignal(each) for each in SAID]

    def send_signal() -> None:
        while latest_checkpoint(folder) is None:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=send_signal, daemon=True)
    watcher.start()
    with pytest.raises(SystemExit) as stopped:
        run(*flags(data, folder, "--max-steps", "5000"))
    watcher.join()
    assert stopped.value.code == 128 + number
    message = capsys.readouterr().err
    assert f"{SAID[number]}; --resume goes on from the last checkpoint\n" in message
    assert "Traceback" not in message
    assert not (folder / "result.json").exists()
    assert latest_checkpoint(folder) is not None
    assert [signal.getsignal(each) for each in SAID] == handlers


@pytest.mark.parametrize("number", SAID)
def test_a_run_interrupted_early_promises_nothing(tmp_path, data, capsys, monkeypatch, number):
    """Before the first checkpoint there is nothing to go on from."""
    monkeypatch.setattr(
        finetune, "load_model", lambda *_, **__: os.kill(os.getpid(), number) or time.sleep(9)
    )
    with pytest.raises(SystemExit) as stopped:
        run(*flags(data, tmp_path / "out"))
    assert stopped.value.code == 128 + number
    assert capsys.readouterr().err == (
        f"{SAID[number]}; there is no checkpoint to go on from yet\n"
    )


def test_what_became_of_the_records_is_said(tmp_path, data, capsys):
    """Between the command and the first step, in lines that fit a terminal."""
    run(*flags(data, tmp_path / "out", "--max-steps", "1", "--block-size", "60"))
    shown = capsys.readouterr().out.splitlines()
    (first,) = [i for i, line in enumerate(shown) if line == f"{data}: 120 records"]
    assert shown[first + 1] == "  WARNING: 120 of 120 records (100%) are cut at 60 tokens"
    assert first < next(i for i, line in enumerate(shown) if "optimizer adamw" in line)


def test_flags_have_dashes_underscores_and_aliases():
    """All spellings lead to the same arguments."""
    one = finetune.parse_arguments(["--lr", "0.1", "--block-size", "32", "--no-mask-prompt"])
    other = finetune.parse_arguments(
        ["--learning_rate", "0.1", "--block_size", "32", "--mask_prompt", "false"]
    )
    assert one[0] == other[0]
    assert one[1].learning_rate == other[1].learning_rate == 0.1
    assert one[1].output_dir == "runs/finetune/optbench-tiny-gpt2-adamw"
