"""Sections of `gpu_check.py` that go wrong, and one that looks at the file of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: Where the file of the whole run lies.
OUT = "GPU_CHECK_OUT"


def fine(report: Any, device: str) -> None:
    report.record("numbers", {"one": 1.0, "device": device})


def nan(report: Any, device: str) -> None:
    report.record("losses", {"step 3": [1.0, float("nan")]})


def crash(report: Any, device: str) -> None:
    report.record("before", 1)
    raise RuntimeError("no kernel image")


def hang(report: Any, device: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report.record("child", child.pid)
    time.sleep(600)


def look(report: Any, device: str) -> None:
    document = json.loads(Path(os.environ[OUT]).read_text(encoding="utf-8"))
    report.record("there", list(document["sections"]))
