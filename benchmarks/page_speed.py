"""How long the page of 200 rows and 10,000 trials takes to make and to open, and what it weighs.

    python benchmarks/page_speed.py

The trials never ran. The clock of the opening runs from the address to the first figure in a real
Chromium, which was started before; best of three. Writes ``benchmarks/results/page_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fake_board import write_store  # noqa: E402
from large_board import large_board  # noqa: E402

from optbench_llm.leaderboard.environment import describe_environment  # noqa: E402
from optbench_llm.report.page import make_page  # noqa: E402
from optbench_llm.report.sources import read_sources  # noqa: E402

BOUND_S, BOUND_BYTES = 2.0, 5_000_000
ROWS = 200
RESULT = Path(__file__).parent / "results" / "page_speed.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    os.fsync = lambda file: None  # the store is thrown away
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options.rows, Path(folder))
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if report["open_s"] > BOUND_S or report["bytes"] > BOUND_BYTES:
        raise SystemExit(f"more than {BOUND_S:g} s or {BOUND_BYTES:,} bytes")


def measure(rows: int, folder: Path) -> dict[str, Any]:
    fake = large_board(rows)
    write_store(fake, folder)
    began = time.perf_counter()
    text = make_page(read_sources([folder]))
    make_s = time.perf_counter() - began
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return {
        "command": "python benchmarks/page_speed.py",
        "environment": describe_environment(),
        "rows": rows,
        "trials": len(fake.results),
        "bytes": len(text.encode()),
        "make_s": make_s,
        "open_s": min(opened(page) for _ in range(3)),
        "bounds": {"open_s": BOUND_S, "bytes": BOUND_BYTES},
    }


def opened(page: Path) -> float:
    """Seconds from the address to the first figure."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page()
        began = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("figure .plot svg")
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
