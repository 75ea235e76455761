"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

pytest_plugins = ["compatibility"]

# Workers of pytest-xdist share the cores; threads that wait for each other cost more than they do.
# Set before torch is imported, and for the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's kernels run in its interpreter. Set before triton is imported.
os.environ["TRITON_INTERPRET"] = "1"

ALPACA_FILES = {
    "sample": Path(__file__).with_name("alpaca_sample.json"),
    # 999 real records, beside the checkout; their licence keeps them out of the project.
    "real": Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_demo.json",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than a small machine has cores: tests that wait for processes leave a core idle."""
    cores = os.cpu_count() or 1
    return cores + 1 if cores <= 4 else None


def pytest_collection_finish() -> None:
    """Spare the collections that every Trainer begins with a look at all imported modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", params=ALPACA_FILES)
def alpaca_file(request: pytest.FixtureRequest) -> Path:
    """A file in Alpaca's format: the sample of our own, and the real one where it is at hand."""
    path = ALPACA_FILES[request.param]
    if not path.is_file():
        pytest.skip(f"needs the Alpaca demo records at {path}")
    return path


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPTBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def newton_schulz_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon and Scion without their rounding to bfloat16, which hides all but gross errors."""
    from optbench_llm.engine import compiled
    from optbench_llm.rules import newton_schulz

    monkeypatch.setattr(newton_schulz, "narrow", lambda x: x)
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})
