"""Whether everything works on a GPU, and how fast: one command for the day when one is at hand.

    python benchmarks/gpu_check.py                        # at most 8 minutes on an H100
    python benchmarks/gpu_check.py --sections rows,times
    python benchmarks/gpu_check.py --cpu                  # what needs no GPU

Each section is a process with a deadline, and the JSON file is rewritten after each, so that a run
that is killed keeps what it has. ``gpu/sections.py`` lists them. Findings stand at the end of the
output and in the file: numbers that are NaN, steps that wait for the device more than once, AdamW
above 1.3 times torch's fused one, rows that stray from the CPU's, sections that fail or do not end.
With any the exit code is 1. ``GPU.md`` says how to carry what a bare machine lacks.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLACES = (ROOT, ROOT / "benchmarks", ROOT / "tests")
sys.path[:0] = [str(place) for place in PLACES]

from gpu.process import run_section  # noqa: E402
from gpu.report import write_json  # noqa: E402
from gpu.sections import LIMIT_S, Section, chosen  # noqa: E402

from optbench_llm.leaderboard.environment import describe_environment  # noqa: E402

FOLDER = ROOT / "benchmarks" / "results"
#: No machine is lent for a CPU's run, and two shared cores are no GPU's sixteen.
CPU_PATIENCE = 5
PACKAGES = ("triton", "pytorch_optimizer", "schedulefree", "prodigyopt", "pydantic", "peft")


def main() -> None:
    parser = argument_parser()
    options = parser.parse_args()
    try:
        sections = chosen(options.sections)
    except ValueError as error:
        parser.error(str(error))
    device = "cpu" if options.cpu else "cuda"
    if options.cpu:
        sections = [replace(one, limit_s=CPU_PATIENCE * one.limit_s) for one in sections]
    out = options.out or FOLDER / f"gpu_check_{device}.json"
    findings = check(sections, device, out, options.commit)
    print(f"\nwritten to {out}")
    print(f"{len(findings)} findings" if findings else "no findings")
    for finding in findings:
        print(f"- {finding}")
    sys.exit(1 if findings else 0)


def argument_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", metavar="NAME,...", help="run these alone (default: all)")
    parser.add_argument(
        "--cpu", action="store_true", help="skip what needs CUDA, and run the rest on the CPU"
    )
    parser.add_argument(
        "--out", type=Path, help="the JSON file (default: benchmarks/results/gpu_check_DEVICE.json)"
    )
    parser.add_argument(
        "--commit", help="what the JSON names where the code was copied without its history"
    )
    return parser


def check(sections: list[Section], device: str, out: Path, commit: str | None) -> list[str]:
    """Run the sections and write the file after each; returns all findings."""
    document: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/gpu_check.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit or present_commit(),
        "environment": with_gpu(describe_environment(), device),
        "limit_s": LIMIT_S,
        "sections": {},
        "findings": [],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = environment_of_sections(device, Path(scratch))
        for section in sections:
            print(f"--- {section.name}, at most {section.limit_s:g} s", flush=True)
            found = run_section(section, device, Path(scratch), environment)
            document["sections"][section.name] = found
            document["findings"] += [f"{section.name}: {one}" for one in found["findings"]]
            write_json(out, document)
            for line in found.get("stderr", []):
                print(line, file=sys.stderr)
            print(f"    {found['wall_s']:.0f} s, {len(found['findings'])} findings", flush=True)
    return document["findings"]


def environment_of_sections(device: str, scratch: Path) -> dict[str, str]:
    """With the modules of this checkout, and a cache of kernels that begins empty."""
    paths = [str(place) for place in PLACES]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    return environment


def with_gpu(environment: dict[str, Any], device: str) -> dict[str, Any]:
    """With the GPU's name and driver, and the versions of what is compared."""
    versions = dict(environment["versions"])
    for package in PACKAGES:
        versions[package] = installed_version(package)
    gpu = driver = None
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu, driver = output(query).splitlines()[0].split(", ")
    return {**environment, "versions": {**versions, "driver": driver}, "gpu": gpu}


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def present_commit() -> str | None:
    """That of the checkout; None where there is none."""
    try:
        return output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"])
    except (OSError, subprocess.CalledProcessError):
        return None


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
