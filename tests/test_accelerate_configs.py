"""The shipped accelerate configs: accelerate reads them and starts what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from optbench_llm.leaderboard.recipe import shipped_recipes

FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"
#: Machines, processes, and the words that the command in the head must have.
CONFIGS = {
    "1-gpu": (1, 1, []),
    "8-gpus-ddp": (1, 8, []),
    "8-gpus-fsdp2": (1, 8, ["--fsdp2"]),
    "2-nodes-8-gpus": (2, 16, ["--main_process_ip", "--machine_rank"]),
}


def command(config: Path) -> list[str]:
    """The words of the command in a file's head, after ``accelerate launch``."""
    head = config.read_text().split("accelerate launch ")[1].split("#\n")[0].split("\n\n")[0]
    return head.replace("\\\n#", "").split()


def test_every_config_is_tested():
    """And none is taken for a leaderboard's recipe."""
    assert {path.stem for path in FOLDER.iterdir()} == set(CONFIGS)
    assert not set(CONFIGS) & set(shipped_recipes())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_in_the_head_is_what_the_name_says(name, monkeypatch):
    """As ``accelerate launch`` understands it."""
    monkeypatch.chdir(FOLDER.parents[1])
    machines, processes, words = CONFIGS[name]
    given = command(FOLDER / f"{name}.yaml")
    assert given[:2] == ["--config_file", f"recipes/accelerate/{name}.yaml"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert (args.num_machines, args.num_processes) == (machines, processes)
    assert args.multi_gpu == (processes > 1)
    assert (args.module, args.training_script) == (True, "optbench_llm.finetune")
    assert args.mixed_precision == "no"
    assert set(words) <= set(given)
