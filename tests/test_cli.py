"""The command line: quick to start, and wrong input ends in one clear message."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from command_line import run_here
from rich.console import Console

import optbench_llm
import optbench_llm as ob
from optbench_llm.catalog import published_optimizers
from optbench_llm.catalog.info import LARGE_MATRIX
from optbench_llm.catalog_pages import Selection, fitting_table, list_json
from optbench_llm.compatibility import CIRCUMSTANCES
from optbench_llm.info_page import info_json
from optbench_llm.spec_list import split_specs

HEAVY = ["torch", "transformers", "datasets", "accelerate", "pandas", "scipy"]
HEAVY += ["pydantic", "rich", "numpy"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run ``optbench-llm`` as a process of its own."""
    command = [sys.executable, "-m", "optbench_llm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("module", "too_heavy"),
    [
        ("optbench_llm", HEAVY),
        ("optbench_llm.cli", HEAVY),
        ("optbench_llm.leaderboard.command", HEAVY[:6]),
        ("optbench_llm.leaderboard.estimate", HEAVY[:6]),
    ],
)
def test_importing_costs_no_heavy_package(module, too_heavy):
    """What only parses, plans or shows a table starts without torch and its company."""
    code = f"import sys, {module}; print([m for m in {too_heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("adamw", ["adamw"]),
        ("adamw,lion@int8", ["adamw", "lion@int8"]),
        (" adamw , torch:AdamW ", ["adamw", "torch:AdamW"]),
        ("a(x,y),b", ["a(x,y)", "b"]),
    ],
)
def test_specs_are_split_at_commas_outside_parentheses(text, specs):
    """A comma inside parentheses belongs to the spec."""
    assert split_specs("--optim", text) == specs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adamw,,lion", "item 2 is empty"),
        ("", "item 1 is empty"),
        ("adamw,", "item 2 is empty"),
        ("a(x,y", "parenthesis"),
        ("a)x(", "parenthesis"),
    ],
)
def test_a_malformed_list_of_specs_is_refused(text, words):
    """A slip in a list is no shorter list."""
    with pytest.raises(ValueError, match=words):
        split_specs("--optim", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["leaderboard", "--optim", "adamw,,lion"], ["item 2 is empty"]),
        (["leaderboard", "--optim", "addam"], ["addam", "Nearest", "adam"]),
        (["leaderboard", "tiny-gtp2"], ["tiny-gtp2", "did you mean tiny-gpt2"]),
        (["leaderboard", "--max-steps", "0"], ["training.max_steps", "greater than or equal to 1"]),
        (["leaderboard", "--lr", "fast"], ["lr", "positive number", "'fast'"]),
        (["leaderboard", "--seed", "-1"], ["seeds[0]", "greater than or equal to 0"]),
        (["leaderboard", "--model", "optbench:tiny"], ["optbench:tiny", "optbench:tiny-gpt2"]),
        (["leaderboard", "--data", "none.json"], ["none.json"]),
        (["leaderboard", "--optim", "torch:AdamV"], ["AdamV", "Nearest"]),
        (["info", "addam"], ["addam", "Nearest", "adam"]),
        (["info", "lookahead+"], ["expected a name after the +", "lookahead+adamw"]),
        (["info", "adagrad@int8"], ["adagrad@int8", "sum would lose", "Use adagrad"]),
        (["finetune", "--optim", "lion@int4"], ["lion@int4", "fp32, bf16, int8"]),
        (["info", "torch:AdamW"], ["torch:AdamW", "no row", "optbench-llm list"]),
        (["list", "xyz*"], ["xyz*"]),
        (["list", "--scope", "galaxy"], ["galaxy", "element"]),
        (["list", "--year", "1901"], ["year 1901", "optbench-llm list shows all"]),
        (["list", "adan", "--max-state-bytes", "8"], ["name adan", "parameter at most 8"]),
        (["memory", "--model", "optbench:tiny-gpt2", "--optim", "addam"], ["addam", "Nearest"]),
        (["memory", "--model", "./none"], ["none", "gpt2-xl"]),
    ],
)
def test_wrong_input_ends_with_one_message_and_exit_code_2(tmp_path, arguments, words):
    """What was wrong and what was meant, on standard error, without a traceback or a file."""
    done = run_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_store_is_refused_before_any_work(tmp_path):
    """The run does not start where its results could not be kept."""
    (tmp_path / "runs").write_text("")
    done = run_here("leaderboard", cwd=tmp_path)
    assert done.returncode == 2
    assert "store runs/tiny-gpt2: cannot be written" in done.stderr


def test_version_and_help_tell_what_there_is():
    """The version is the package's; the help names every command; an error is no success."""
    assert run("info", "addam").returncode == 2
    assert run("--version").stdout.strip() == f"optbench-llm {optbench_llm.__version__}"
    text = run("--help").stdout
    for command in ("list", "info", "memory", "finetune", "leaderboard"):
        assert command in text


def test_list_gives_every_published_row_with_its_figure():
    """Names from the list work everywhere; JSON is for programs."""
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert set(published_optimizers()) <= set(rows)
    assert rows["adan"]["published_loss"] == 2.5063
    assert rows["lion-8bit"]["published_loss"] is None
    text = run("list", "*lion*").stdout
    assert "lion-8bit" in text
    assert "adamw" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_a_narrow_terminal_gets_fewer_columns_of_the_list_and_none_cut(width):
    """What stands in a cell stands there whole; the name is always there."""
    rows = list_json(Selection())
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(fitting_table(rows, console))
    text = console.file.getvalue()
    assert "…" not in text
    heading, _, *lines = filter(str.strip, text.splitlines())
    assert len(lines) == len(rows)
    shown = heading.split()
    assert ("published*" in shown) == (width >= 60)
    assert ("category" in shown) == (width >= 100)
    assert ("title" in shown) == (width >= 140)
    assert all(line.split()[0] == row["name"] for line, row in zip(lines, rows, strict=True))


def test_a_pipe_gets_whole_lines_in_any_encoding():
    """No width of a terminal applies, and no character ends the program."""
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "COLUMNS": "40"}
    done = run("list", env=environment)
    assert done.returncode == 0, done.stderr
    assert "title" in done.stdout
    assert "adaptive lr + plain gradient" in done.stdout
    done = run("info", "sophia", env=environment)
    assert max(map(len, done.stdout.splitlines())) > 80


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    """What the system refuses is no traceback either."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-u", "-m", "optbench_llm", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: No space left on device"


def test_list_filters_by_year_and_by_memory():
    """What is shown is what was asked for, and all of it."""
    everything = {row["name"]: row for row in list_json(Selection())}

    def names(**wishes):
        return {row["name"] for row in list_json(Selection(**wishes))}

    assert names(year=2023) == {n for n, row in everything.items() if row["year"] == 2023}
    assert names(since=2023) == {n for n, row in everything.items() if row["year"] >= 2023}
    small = names(max_state_bytes=4)
    assert {"sgd", "lion", "adafactor", "lion-8bit", "sophia-lmflow"} <= small
    assert not {"adamw", "adan", "svrg"} & small
    assert names(max_state_bytes=8) > small
    assert names(pattern="ada*", since=2022, max_state_bytes=16) >= {"adan"}


def test_all_of_the_list_costs_no_torch():
    """State per parameter included: slots are counted without a tensor."""
    code = (
        "import sys; from optbench_llm.catalog_pages import *;"
        f"list_json(Selection()); print([m for m in {HEAVY[:6]} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_list_tells_variants_apart():
    """None passes for a row like any other."""
    text = run_here("list").stdout
    assert "sophia-lmflow (of sophia)" in text


OURS = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule]


@pytest.mark.filterwarnings("ignore:.*looks at output channels")
@pytest.mark.parametrize("name", [*OURS, "lookahead+sgd"])
def test_state_per_parameter_is_what_the_engine_plans(name):
    """Counted from the slots without a tensor, and by the engine for a matrix of that size."""
    weight = torch.nn.Parameter(torch.empty(LARGE_MATRIX, device="meta"))
    optimizer = ob.create_optimizer([{"params": [weight], "role": "matrix"}], name)
    kept = optimizer.planned_state_bytes()
    assert ob.optimizer_info(name).state_bytes_per_param == kept / weight.numel()


def test_info_shows_equations_paper_state_and_ranges():
    """One page tells what the optimizer does, takes and needs."""
    text = run_here("info", "Sophia").stdout
    for words in ("2305.14342", "(0.965, 0.99)", "hessian", "sophia-g", r"\theta_t"):
        assert words in text
    assert "2 values, each a number in [0, 1)" in text
    assert "3.16e-06, 1e-05, 3.16e-05, 0.0001, 0.000316, 0.001, 0.00316" in text
    assert re.search(r"variants +sophia-lmflow", text)
    assert re.search(r"works with +one process, DDP, FSDP2, LoRA, .* another number", text)
    assert re.search(r"DeepSpeed ZeRO-1/2 +refused: program 'sophia-g' does not run under", text)


def test_info_as_json_is_the_page():
    """Defaults with ranges, a companion's among them; state, storages and where it runs."""
    facts = json.loads(run_here("info", "muon", "--json").stdout)
    assert facts["hyperparameters"]["companion_eps"]["range"] == "a number in [0, inf)"
    assert facts["hyperparameters"]["momentum"]["range"] == "a number in [0, 1)"
    assert any("companion" in need for need in facts["needs"])
    assert facts["storages"] == {"fp32": None, "bf16": None, "int8": None}
    assert facts["compatibility"]["FSDP2"]["works"]
    assert "needs whole tensors" in facts["compatibility"]["DeepSpeed ZeRO-1/2"]["reason"]


@pytest.mark.parametrize("name", ob.list_optimizers())
def test_every_row_has_a_page(name):
    """Whatever the catalog holds can be shown, and is plain enough for JSON."""
    facts = info_json(name)
    assert json.loads(json.dumps(facts, allow_nan=False))["name"] == name
    assert facts["lr_grid"][3] == facts["lr"]
    assert all(0.31 < a / b < 0.32 for a, b in pairwise(facts["lr_grid"]))
    assert tuple(facts["compatibility"]) == CIRCUMSTANCES
    for cell in facts["compatibility"].values():
        assert cell["test"].startswith("tests/")
        assert cell["works"] or cell["reason"]


@pytest.mark.parametrize(
    ("spec", "rows", "zero"),
    [
        ("lion@int8", ["lion"], None),
        ("sam+lion", ["sam", "lion"], "program 'sam'"),
        ("lookahead+muon", ["lookahead", "muon"], "'muon' needs whole tensors"),
        ("schedulefree+sgd", ["sgd-schedulefree", "sgd"], "another point"),
    ],
)
def test_a_spec_is_as_compatible_as_the_rows_it_is_made_of(spec, rows, zero):
    """It names them: the spec itself has not been shown."""
    facts = info_json(spec)
    assert facts["compatibility_shown_for"] == rows
    assert facts["compatibility"]["DDP"]["works"]
    cell = facts["compatibility"]["DeepSpeed ZeRO-1/2"]
    assert cell["works"] == (zero is None)
    assert (zero or "") in cell.get("reason", "")


def test_list_knows_every_spelling_of_a_name():
    """What other commands take for a name is found; a pattern stays one."""
    for spelling in ("AdamW-Schedule_Free", "schedulefree", "adamw-schedulefree"):
        assert [row["name"] for row in list_json(Selection(spelling))] == ["adamw-schedulefree"]
    assert len(list_json(Selection("adamw*"))) > 1


def test_info_knows_wrapped_optimizers():
    """A wrapper's settings and slots stand beside its base's."""
    facts = info_json("lookahead+adan")
    assert {"lookahead_k", "no_prox"} <= facts["hyperparameters"].keys()
    assert facts["state_bytes_per_param"] == 20
    assert facts["published_loss"] is None


def test_finetune_gets_its_arguments_untouched():
    """Help and errors are finetune's own, not the outer command's."""
    text = run_here("finetune", "--help").stdout
    assert "--optim" in text
    assert "--per_device_train_batch_size" in text
    done = run_here("finetune", "--optim", "addam")
    assert done.returncode == 2
    assert "addam" in done.stderr
