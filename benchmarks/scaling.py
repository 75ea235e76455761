"""What the optimizer's own step communicates and keeps on several processes; counted, not timed.

    python benchmarks/scaling.py                       # every row, then the pages
    python benchmarks/scaling.py --optim muon,lamb     # these rows anew
    python benchmarks/scaling.py --table               # the pages from what was counted before

Two and four processes (gloo, CPU) step GPT-2's shapes, cut by FSDP2, with random gradients. Every
collective of the second step is counted where it enters torch's dispatcher, and compared with a
plan of the same step, made from shapes and the engine's own division of parameters: they must
agree to the byte. The plan is then made for 8 and 64 processes and for Llama 7B. Counts go to
``benchmarks/results/scaling.json``, the pages to ``benchmarks/SCALING.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ledger.page import page

import optbench_llm as ob
from optbench_llm.leaderboard.environment import describe_environment

FOLDER = Path(__file__).parent
RESULT, PAGE = FOLDER / "results" / "scaling.json", FOLDER / "SCALING.md"
ROWS = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule is not None]
LOW_BITS = ["lion@int8", "adamw@int8", "adamw@bf16", "muon@int8"]
#: Rows that are stepped over the shapes of all of GPT-2, some for each way; others over small ones.
ALL_LAYERS = ("adamw", "lamb", "lion", "lion@int8", "muon", "prodigy")
PROCESSES = (2, 4)
REPLICATED_SHAPES = "gpt2, tiny"


def shapes_for(spec: str) -> str:
    """The model whose shapes are stepped with a row."""
    return "gpt2" if spec in ALL_LAYERS else "gpt2, small"


def count(way: str, shapes: str, processes: int, specs: list[str]) -> dict[str, Any]:
    """Counts of each spec on each process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", str(FOLDER / "ledger" / "worker.py"),
            str(out), way, shapes, *specs,
        ]  # fmt: skip
        paths = [str(FOLDER), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(command, check=True, env=environment)
        return json.loads(out.read_text(encoding="utf-8"))


def measure(shapes: str, specs: list[str]) -> list[dict[str, Any]]:
    """One row a spec: counts of each process, by number of processes."""
    counts = {processes: count("fsdp2", shapes, processes, specs) for processes in PROCESSES}
    replicated = count("ddp", REPLICATED_SHAPES, 2, specs)
    return [
        {
            "optimizer": spec,
            "scope": ob.optimizer_info(spec).scope,
            "shapes": shapes,
            "fsdp2": {str(processes): found[spec] for processes, found in counts.items()},
            "replicated_shapes": REPLICATED_SHAPES,
            "replicated": replicated[spec],
        }
        for spec in specs
    ]


def main() -> None:
    """Count, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--optim", help="specs, comma-separated (default: every row)")
    parser.add_argument("--table", action="store_true", help="count nothing, write the page anew")
    options = parser.parse_args()
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    specs = options.optim.split(",") if options.optim else [*ROWS, *LOW_BITS]
    about = {"command": " ".join(["python", *sys.argv]), "environment": describe_environment()}
    for shapes in () if options.table else sorted(set(map(shapes_for, specs))):
        new = measure(shapes, [spec for spec in specs if shapes_for(spec) == shapes])
        counted = {row["optimizer"] for row in new}
        rows = [row for row in rows if row["optimizer"] not in counted]
        rows = sorted([*rows, *({**row, **about} for row in new)], key=lambda r: r["optimizer"])
        RESULT.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
