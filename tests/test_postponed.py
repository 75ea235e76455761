"""bitsandbytes is loaded by the processes that use it, and by no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from leaderboard_setup import write_recipe


def run(program: str, *arguments: str) -> str:
    """What a program prints, in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "program",
    [
        "import optbench_llm",
        "import optbench_llm as ob; ob.list_optimizers('*'); ob.optimizer_info('lion-8bit')",
        "sys.argv[1:] = ['list']; from optbench_llm.cli import app; app(standalone_mode=False)",
    ],
)
def test_what_trains_nothing_does_not_load_it(program):
    """Nor anything of it, nor torch."""
    tell = (
        "; print('!', sorted({'torch', 'bitsandbytes'} & {m.split('.')[0] for m in sys.modules}))"
    )
    assert run(f"import sys; {program}{tell}").splitlines()[-1] == "! []"


#: Stands where bitsandbytes would be found; tells when it is loaded.
STAND_IN = """
print("loaded")
from bitsandbytes import optim
value = 1
"""
FIRST_USES = {
    "an attribute": "bitsandbytes.value",
    "one that it may lack": "hasattr(bitsandbytes, 'none')",
    "a name of it": "from bitsandbytes import value",
    "a module of it": "import bitsandbytes.optim; bitsandbytes.optim.Adam",
    "a name of a module of it": "from bitsandbytes.optim import Adam",
    "a module of it by name": "importlib.import_module('bitsandbytes.optim').Adam",
}


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """The beginning of a program that finds a stand-in for bitsandbytes, and postpones it."""
    package = tmp_path / "bitsandbytes"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    (package / "optim.py").write_text("Adam = 2\n")
    return (
        f"import importlib, inspect, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from optbench_llm.postponed import is_bitsandbytes_used, postpone_bitsandbytes\n"
        "postpone_bitsandbytes()\n"
    )


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES)
def test_the_first_use_loads_it_once(stand_in, use):
    """Whatever it is; to import and to look for it is none."""
    program = (
        "import bitsandbytes\n"
        "assert importlib.util.find_spec('bitsandbytes').name == 'bitsandbytes'\n"
        "assert inspect.getmodule(inspect.currentframe()) is not bitsandbytes\n"
        "print(is_bitsandbytes_used())\n"
        f"{use}\n"
        "print(is_bitsandbytes_used(), bitsandbytes.value, bitsandbytes.optim.Adam)\n"
    )
    assert run(stand_in + program).splitlines() == ["False", "loaded", "True 1 2"]


def test_one_that_cannot_be_loaded_is_told_as_any_other(stand_in, tmp_path):
    """At each try."""
    (tmp_path / "bitsandbytes" / "optim.py").write_text("raise ImportError('no such GPU')\n")
    program = (
        "for _ in range(2):\n"
        "    try:\n"
        "        from bitsandbytes import value\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    assert run(stand_in + program).splitlines() == ["loaded", "no such GPU"] * 2


# Loads torch, transformers, data and model in a process of its own.
@pytest.mark.slow
def test_a_worker_loads_it_for_a_spec_that_needs_it_alone(tmp_path):
    """Not for AdamW, though peft imports it; and for Lion8bit after that."""
    recipe = write_recipe(tmp_path, "adamw", "lion-8bit")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from optbench_llm.postponed import postpone_bitsandbytes\n"
        "postpone_bitsandbytes()\n"
        "from optbench_llm.leaderboard.pool import worker_setup\n"
        "from optbench_llm.leaderboard.plan import make_plan\n"
        "from optbench_llm.leaderboard.recipe import load_recipe\n"
        "from optbench_llm.leaderboard.store import Store\n"
        "from optbench_llm.leaderboard.workbench import Workbench\n"
        "plan = make_plan(load_recipe(sys.argv[1]))\n"
        "with Store.open(Path(sys.argv[2]), plan.identity) as store:\n"
        "    setup = worker_setup(plan, store.scratch_folder('x'), untouched=True)\n"
        "    bench = Workbench({**setup, 'threads': 1, 'processes': 1})\n"
        "    trials = [t for e, _ in plan.entries() for t in plan.row(e, {}).trials]\n"
        "    for trial in trials:\n"
        "        record = bench.run(trial.to_dict(), lambda step, loss: None)\n"
        "        used = 'bitsandbytes.functional' in sys.modules\n"
        "        print('!', trial.spec, record.status, 'peft' in sys.modules, used)\n"
    )
    told = run(program, str(recipe), str(tmp_path / "store")).splitlines()
    assert [line for line in told if line.startswith("!")] == [
        "! adamw done True False", "! lion-8bit done True True"
    ]  # fmt: skip
