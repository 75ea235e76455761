"""What Triton's compiler makes of every kernel, for GPUs that need not be there.

    python benchmarks/triton_code.py [--target sm_90] [NAME...]

Each row of the catalog, in fp32, bf16 and int8 where it takes these, for NVIDIA's sm_80 and sm_90
and AMD's gfx942: seconds to trace and to compile, registers, bytes that spill out of them, and how
wide the loads and stores of whole tiles are. A row has as many kernels as its stages and kinds of
tensors: matrices, transposed ones where channels matter, vectors. Names on the command line are
specs, such as ``lion@int8``; these alone are compiled then and no file is written.

Bounds: nothing spills, every load of a whole tile takes 128 bits, a row's kernels take 3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Kernels are compiled here, not interpreted.
os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from engine_setup import works_of  # noqa: E402
from oracles import CASES  # noqa: E402
from oracles.comparison import make_optimizer  # noqa: E402

from optbench_llm.engine.triton.batch import TILES, WARPS  # noqa: E402
from optbench_llm.engine.triton.executor import Kind, kind_of, stages_of  # noqa: E402
from optbench_llm.engine.triton.kernels import made, source_of  # noqa: E402
from optbench_llm.leaderboard.environment import describe_environment  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
#: Loads and stores by their width, in NVIDIA's intermediate code and AMD's assembly.
NVIDIA_ACCESS = re.compile(r"\b(ld|st)\.global\S*?(?:\.v(\d))?\.b(\d+)\b")
AMD_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(\w+)")
AMD_BITS = {"dwordx4": 128, "dwordx2": 64, "dword": 32}
BOUND_S = 3.0
RESULT = ROOT / "benchmarks" / "results" / "triton_code.json"
TABLES = {
    "table": "*i64", "tiles": "*i32", "numbers": "*i64", "scalars": "*fp32", "sums": "*fp32",
    "kept": "*fp32", "out": "*fp32",
}  # fmt: skip


def works_of_row(spec: str) -> Iterator[Any]:
    """Works of matrices as they lie and transposed, and of vectors; those that are observed too."""
    name = spec.partition("@")[0]
    shapes = [torch.zeros(96, 64), torch.zeros(64, 96).t(), torch.zeros(64)]
    params = [nn.Parameter(tensor) for tensor in shapes]
    optimizer = make_optimizer(params, spec, **CASES[name][0])
    for advance in (True, False) if optimizer.rule.observe is not None else (True,):
        for p in params:
            p.grad = torch.ones_like(p)
        yield from works_of(optimizer, advance=advance)


def kernels_of(spec: str) -> dict[tuple[Kind, str], None]:
    """The kernels of a row: kinds of tensors and the stages of each."""
    found: dict[tuple[Kind, str], None] = {}
    for work in works_of_row(spec):
        kind = kind_of(work)
        if kind is not None:
            found |= {(kind, stage): None for stage in stages_of(work)}
    return found


def compiled(kind: Kind, stage: str, target: GPUTarget) -> dict[str, Any]:
    """One kernel compiled for a target."""
    began = time.perf_counter()
    source = source_of(kind.variant, stage)
    traced = time.perf_counter()
    sums = len(kind.variant.inputs(stage).sums)
    rows, columns = TILES[kind.variant.form, kind.row_major]
    constants = {
        "SUMS": sums, "ROWS": rows, "COLUMNS": columns, "ALIGNED": True,
        "ROW_MAJOR": kind.row_major,
    }  # fmt: skip
    signature = TABLES | dict.fromkeys(constants, "constexpr")
    code = triton.compile(
        ASTSource(made(source), signature, constants), target=target, options={"num_warps": WARPS}
    )
    return {
        "stage": stage,
        "form": kind.variant.form.value,
        "rows_in_memory": kind.row_major,
        "trace_s": round(traced - began, 3),
        "compile_s": round(time.perf_counter() - traced, 3),
        **(_of_nvidia(code) if target.backend == "cuda" else _of_amd(code)),
    }


def _of_nvidia(code: Any) -> dict[str, Any]:
    dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        run = [str(dump), "--dump-resource-usage", file.name]
        usage = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    widths: dict[str, Counter[int]] = {"ld": Counter(), "st": Counter()}
    for access, count, bits in NVIDIA_ACCESS.findall(code.asm["ptx"]):
        widths[access][int(count or 1) * int(bits)] += 1
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spilled_bytes": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "loads_by_bits": dict(sorted(widths["ld"].items())),
        "stores_by_bits": dict(sorted(widths["st"].items())),
    }


def _of_amd(code: Any) -> dict[str, Any]:
    text = code.asm["amdgcn"]
    widths: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for access, kind in AMD_ACCESS.findall(text):
        widths[access][AMD_BITS.get(kind, 16 if "short" in kind else 8)] += 1
    return {
        "registers": int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[0]),
        "spilled_bytes": 4 * int(re.findall(r"\.vgpr_spill_count:\s+(\d+)", text)[0]),
        "loads_by_bits": dict(sorted(widths["load"].items())),
        "stores_by_bits": dict(sorted(widths["store"].items())),
    }


def measure(spec: str, targets: Sequence[str]) -> dict[str, Any]:
    """All kernels of a row, for each target."""
    kernels = kernels_of(spec)
    row: dict[str, Any] = {"spec": spec, "kernels": len(kernels)}
    for name in targets:
        began = time.perf_counter()
        found = [compiled(kind, stage, TARGETS[name]) for kind, stage in kernels]
        row[name] = {
            "wall_s": round(time.perf_counter() - began, 2),
            "spilled_bytes": sum(own["spilled_bytes"] for own in found),
            "registers": max((own["registers"] for own in found), default=0),
            "kernels": found,
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("specs", nargs="*", metavar="NAME")
    parser.add_argument("--target", action="append", choices=TARGETS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    targets = options.target or [*TARGETS]
    rows = []
    for spec in options.specs or [n + s for n in CASES for s in ("", "@bf16", "@int8")]:
        try:
            rows.append(measure(spec, targets))
        except ValueError:
            # Its state takes no other storage.
            continue
        own = rows[-1]
        told = [
            f"{name} {own[name]['wall_s']:5.1f} s, {own[name]['registers']:3d} registers,"
            f" {own[name]['spilled_bytes']} bytes spilled"
            for name in targets
        ]
        print(f"{spec:24s} {own['kernels']} kernels; " + "; ".join(told), flush=True)
    if not options.specs:
        command = "python benchmarks/triton_code.py"
        about = {"command": command, "triton": triton.__version__, **describe_environment()}
        head = json.dumps({**about, "bound_s": BOUND_S}, indent=1).removesuffix("\n}")
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        RESULT.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
