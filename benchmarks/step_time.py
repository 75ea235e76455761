"""Milliseconds, bytes and first steps of every optimizer, ours and others', on GPT-2's shapes.

    python benchmarks/step_time.py                              # every row at 124M
    python benchmarks/step_time.py --params 1M --optim lion,lamb@bf16
    python benchmarks/step_time.py --table                      # only write the tables again
    ATEN_CPU_CAPABILITY=avx2 TORCHINDUCTOR_CPP_MARCH=znver3 python benchmarks/step_time.py ...
                                                                # as without AVX-512

Every step is timed between two steps of torch's fused AdamW, and its ratio to their mean is what
counts: machines change their speed within minutes. Results go to ``benchmarks/results`` after every
row, so that an interrupted run loses nothing and rows can be measured anew by themselves;
``benchmarks/README.md`` has the tables and says how to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import logging
import os
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from yardstick.bench import SIZES, Bench
from yardstick.capabilities import CAPABILITIES, capabilities_section
from yardstick.contenders import all_specs, check_spec
from yardstick.first_step import first_step_seconds
from yardstick.page import bounds_table, insert, section
from yardstick.results import FOLDER, load, load_all, save, with_first_step, with_row
from yardstick.row import measure_row

from optbench_llm.catalog import ALL, expand
from optbench_llm.catalog.counterparts import PACKAGES
from optbench_llm.leaderboard.environment import describe_environment

README = Path(__file__).parent / "README.md"
REPETITIONS = {"124M": 9, "1M": 51, "350M": 5}
#: The size whose first steps have a bound.
FIRST_STEPS_OF = "124M"


def main() -> None:
    parser = argument_parser()
    options = parser.parse_args()
    if options.table:
        write_tables(options.results)
        return
    try:
        specs = chosen_specs(options.optim)
    except ValueError as error:
        parser.error(str(error))
    warnings.filterwarnings("ignore", message=".*(deprecated|Conv1D).*")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    run = {
        "command": command(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "environment": with_libraries(describe_environment()),
    }
    measure = measure_first_steps if options.only_compile_times else measure_size
    for size in list(SIZES) if options.params == ALL else [options.params]:
        measure(size, specs, options, run)
    if options.results == FOLDER:
        write_tables(FOLDER)


def command() -> str:
    """What was called, with the variables that keep it from some of the processor's instructions.

    The first counts for torch's own code and inductor's vectors, the second for what the C++
    compiler makes of them.
    """
    restrictions = ("ATEN_CPU_CAPABILITY", "TORCHINDUCTOR_CPP_MARCH")
    restricted = [f"{name}={os.environ[name]}" for name in restrictions if name in os.environ]
    return " ".join([*restricted, "python", "benchmarks/step_time.py", *sys.argv[1:]])


def with_libraries(environment: dict[str, Any]) -> dict[str, Any]:
    """With the versions of those libraries too that are only measured."""
    found = dict(environment["versions"])
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {**environment, "versions": found}


def argument_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", choices=[*SIZES, ALL], default="124M", help="size of GPT-2")
    parser.add_argument(
        "--optim",
        default=ALL,
        metavar="SPEC,...",
        help="rows to measure: names, wildcards, NAME@bf16 and NAME@int8 (default: every row)",
    )
    parser.add_argument(
        "--repetitions",
        type=positive_int,
        help="timed steps of each, at most (default: "
        + ", ".join(f"{count} at {size}" for size, count in REPETITIONS.items())
        + ")",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="timed seconds of a row, in equal shares; slow ones repeat 3 times (default: 30)",
    )
    parser.add_argument(
        "--compile-times",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="first steps in fresh processes, two for each row (default: at 124M alone)",
    )
    parser.add_argument(
        "--only-compile-times",
        action="store_true",
        help="measure nothing but first steps, of rows that were measured before",
    )
    parser.add_argument(
        "--results", type=Path, default=FOLDER, help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--table", action="store_true", help="measure nothing, write the tables of README.md again"
    )
    return parser


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is out of range, expected 1 or more")
    return value


def chosen_specs(optim: str) -> list[str]:
    """Canonical specs, each once. Raises ValueError for what the catalog does not have."""
    if optim == ALL:
        return all_specs()
    names = [name for item in optim.split(",") for name in expand(item.strip())]
    return list(dict.fromkeys(check_spec(name) for name in names))


def measure_size(
    size: str, specs: list[str], options: argparse.Namespace, run: dict[str, Any]
) -> None:
    bench = Bench(size)
    about = {"params": size, "parameters": bench.elements, "tensors": len(bench.params)}
    with_first_steps = (
        size == FIRST_STEPS_OF if options.compile_times is None else options.compile_times
    )
    order = all_specs()
    document: dict[str, Any] = {}
    for number, spec in enumerate(specs, 1):
        began = time.perf_counter()
        row = measure_row(
            spec,
            bench,
            repetitions=options.repetitions or REPETITIONS[size],
            enough_s=options.seconds,
        )
        gc.collect()
        if with_first_steps and any(one["ours"] for one in row.get("implementations", ())):
            row["first_step"] = first_step_seconds(spec, size)
        document = with_row(load(size, options.results), about, run, row, order)
        save(document, size, options.results)
        seconds = time.perf_counter() - began
        print(f"[{size} {number}/{len(specs)}] {in_a_line(row)}  ({seconds:.0f} s)", flush=True)
    print(*bounds_table(document), sep="\n", flush=True)


def measure_first_steps(
    size: str, specs: list[str], options: argparse.Namespace, run: dict[str, Any]
) -> None:
    """First steps beside the other figures of each row, which stay as they are."""
    known = {row["optimizer"] for row in (load(size, options.results) or {"rows": []})["rows"]}
    unknown = [spec for spec in specs if spec not in known]
    if unknown:
        sys.exit(
            f"not measured at {size} yet, leave out --only-compile-times: {', '.join(unknown)}"
        )
    for number, spec in enumerate(specs, 1):
        first_step = first_step_seconds(spec, size)
        document = load(size, options.results)
        assert document is not None
        document = with_first_step(document, run, spec, first_step)
        save(document, size, options.results)
        print(
            f"[{size} {number}/{len(specs)}] {spec}: {first_step_in_short(first_step)}", flush=True
        )


def first_step_in_short(first_step: dict[str, Any]) -> str:
    if "warm_s" not in first_step:
        return first_step["reason"]
    return f"first step {first_step['cold_s']:.1f} s cold, {first_step['warm_s']:.1f} s warm"


def in_a_line(row: dict[str, Any]) -> str:
    parts = [
        f"{one['label']}: {one['reason']}"
        if "reason" in one
        else f"{one['label']} {one['step_ms']:.2f} ms ({one['ratio_to_fused']:.2f} × fused AdamW)"
        for one in row["implementations"]
    ]
    if "first_step" in row:
        parts.append(first_step_in_short(row["first_step"]))
    return f"{row['optimizer']}: " + "; ".join(parts)


def write_tables(folder: Path) -> None:
    insert(README, "step_time", "\n\n".join(section(document) for document in load_all(folder)))
    found = {name: load_all(folder / name) for name in CAPABILITIES}
    insert(README, "capabilities", capabilities_section(found))


if __name__ == "__main__":
    main()
