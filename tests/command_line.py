"""``optbench-llm`` in the process of the tests, which need not load torch once more."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from optbench_llm.cli import app


def run_here(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The exit code and what was printed, as of a process of its own."""
    words = [str(argument) for argument in arguments]
    output, errors = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    here = Path.cwd()
    os.chdir(cwd or here)
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            app(words, prog_name="optbench-llm")
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(here)
    return subprocess.CompletedProcess(
        [sys.executable, *words], int(code or 0), output.getvalue(), errors.getvalue()
    )
