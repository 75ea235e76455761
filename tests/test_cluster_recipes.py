"""The shipped examples for clusters: as far as they can be checked without one."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from optbench_llm.catalog import expand
from optbench_llm.cli import app
from optbench_llm.leaderboard.recipe import load_recipe, shipped_recipes

FOLDER = Path(__file__).parents[1] / "recipes" / "cluster"
FILES = ("kuberay.yaml", "skypilot.yaml", "slurm-parts.sh", "slurm-ray.sh")
PARTS = {"slurm-parts.sh": "3/16", "skypilot.yaml": "2/2"}
VARIABLES = {
    "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "address": "10.0.0.1:6379",
    "((SKYPILOT_NODE_RANK + 1))": "2", "SKYPILOT_NUM_NODES": "2", "HOME": "/home/me",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8", "((SLURM_NNODES * SLURM_GPUS_ON_NODE))": "32",
}  # fmt: skip


def text_of(name: str) -> str:
    """What is run, without comments, on one line a command."""
    text = (FOLDER / name).read_text()
    if name == "kuberay.yaml":
        return yaml.safe_load(text)["spec"]["entrypoint"]
    if name == "skypilot.yaml":
        text = yaml.safe_load(text)["run"]
    lines = text.replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def leaderboard_of(name: str) -> Any:
    """The leaderboard command of a file as our own parser understands it."""
    _, _, rest = text_of(name).partition("optbench-llm leaderboard ")
    words = rest.splitlines()[0]
    for variable, value in VARIABLES.items():
        words = words.replace(f"${variable}", value)
    arguments = shlex.split(words.rstrip("& "))
    group: Any = typer.main.get_command(app)
    return group.commands["leaderboard"].make_context("leaderboard", arguments)


def test_every_example_is_tested():
    """And none is taken for a leaderboard's recipe."""
    assert tuple(sorted(path.name for path in FOLDER.iterdir())) == FILES
    assert not {Path(name).stem for name in FILES} & set(shipped_recipes())


@pytest.mark.parametrize("name", FILES)
def test_the_leaderboard_command_is_one_of_ours(name):
    """Recipe, track, rows and the way to run them."""
    asked = leaderboard_of(name).params
    assert load_recipe(asked["recipe"])
    assert expand(asked["optim"])
    assert asked["track"] == "tuned"
    assert asked["store"] is not None
    if name in PARTS:
        assert (asked["executor"], asked["part"]) == ("local", PARTS[name])
    else:
        assert (asked["executor"], asked["gpus_per_trial"]) == ("ray", 1.0)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".sh")])
def test_scripts_are_bash_and_ask_slurm_for_what_they_use(name):
    path = FOLDER / name
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    options = [
        line.removeprefix("#SBATCH --").partition("=")
        for line in path.read_text().splitlines()
        if line.startswith("#SBATCH ")
    ]
    asked = {key: value for key, _, value in options}
    assert {"time", "signal", "cpus-per-task", "output"} <= set(asked)
    assert "TERM@" in asked["signal"]
    assert ("array" in asked) == ("SLURM_ARRAY_TASK_ID" in path.read_text())


# A leaderboard that takes a second to end with its table, and Ray's and Slurm's commands.
STUBS = """
mkdir -p .venv/bin && touch .venv/bin/activate
ray() { echo "ray $1" >> told; }
srun() { sleep 60; }
optbench-llm() { exec python3 -c "
import signal, sys, time
def stop(*_):
    time.sleep(1); open('told', 'a').write('table\\n'); sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open('told', 'a').write('leaderboard\\n')
time.sleep(%s)
sys.exit(1)
"; }
"""


@pytest.mark.parametrize(("is_told_to_end", "code"), [(True, 143), (False, 1)])
def test_slurms_signal_reaches_the_leaderboard_which_ends_in_peace(tmp_path, is_told_to_end, code):
    """The script waits for its table, and ends with its exit code, as it does without a signal."""
    stubs = STUBS % (60 if is_told_to_end else 0.5)
    script = stubs + (FOLDER / "slurm-ray.sh").read_text()
    sizes = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64"}
    batch = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **sizes}, start_new_session=True
    )
    told = tmp_path / "told"
    try:
        end = time.monotonic() + 20
        while not told.exists() or "leaderboard" not in told.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        if is_told_to_end:
            batch.send_signal(signal.SIGTERM)
        assert batch.wait(20) == code
    finally:
        os.killpg(batch.pid, signal.SIGKILL)
    table = ["table"] if is_told_to_end else []
    assert told.read_text().split("\n")[:-1] == ["ray start", "leaderboard", *table, "ray stop"]


def test_ray_start_takes_what_slurm_gives_it():
    """On the first node and on the others; the leaderboard joins the same address."""
    scripts = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed")
    started = []
    for words in text_of("slurm-ray.sh").split("ray start ")[1:]:
        line = words.splitlines()[0].rstrip("& ")
        for variable in ("SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE"):
            line = line.replace(f"${variable}", "8")
        line = line.replace("$address", VARIABLES["address"])
        started.append(scripts.start.make_context("start", shlex.split(line)).params)
    head, others = started
    assert (head["head"], head["port"], head["num_gpus"]) == (True, 6379, 8)
    assert (others["block"], others["num_cpus"]) == (True, 8)
    assert others["address"] == leaderboard_of("slurm-ray.sh").params["ray_address"]


def test_kuberay_has_what_its_operator_asks_for():
    """A pod for the driver without trials, and workers of one GPU each."""
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"]
    (workers,) = cluster["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    asked = leaderboard_of("kuberay.yaml").params
    assert int(limits["cpu"]) >= asked["cpus_per_trial"]
    mounts = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(asked["store"]).startswith(mounts[0]["mountPath"])


def test_skypilot_has_machines_to_run_on():
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    assert task["num_nodes"] > 1
    assert task["resources"]["accelerators"]
    assert "pip install optbench-llm" in task["setup"]
    checked = subprocess.run(["bash", "-n"], input=task["run"], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
