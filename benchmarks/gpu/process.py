"""A section as a process, and the waiting for it.

As a module it is the process: ``python -m gpu.process MODULE:FUNCTION DEVICE FILE`` writes a
`Report` to the file. It ends with whoever started it: when its standard input closes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu.report import Report
from gpu.sections import Section

LINES_OF_ERRORS = 30


def run_section(
    section: Section, device: str, folder: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a section to its end or its deadline; what it reported until then, as plain values."""
    result, errors = folder / f"{section.name}.json", folder / f"{section.name}.stderr"
    command = [sys.executable, "-m", "gpu.process", section.run, device, str(result)]
    began = time.perf_counter()
    with errors.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=stderr, env=environment, start_new_session=True
        )
        try:
            rc: int | None = process.wait(section.limit_s)
        except subprocess.TimeoutExpired:
            rc = None
        finally:
            # Also what it has started and left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    wall_s = time.perf_counter() - began
    report = {"findings": [], "numbers": {}}
    if result.exists():
        report = json.loads(result.read_text(encoding="utf-8"))
    found = {"rc": rc, "wall_s": wall_s, "limit_s": section.limit_s, **report}
    if rc != 0:
        end = f"ended with exit code {rc}" if rc is not None else _over(section)
        lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
        found["findings"] = [*found["findings"], end]
        found["stderr"] = lines[-LINES_OF_ERRORS:]
    return found


def _over(section: Section) -> str:
    return f"ended at its deadline of {section.limit_s:g} s"


def main() -> None:
    """Run the section of the command line."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    place, device, path = sys.argv[1:]
    module, _, function = place.partition(":")
    report = Report(Path(path))
    getattr(importlib.import_module(module), function)(report, device)


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
