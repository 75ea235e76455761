"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

ALPACA = Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_demo.json"


@pytest.fixture(scope="session")
def alpaca_file() -> Path:
    """999 real records, beside the checkout; their licence keeps them out of the project."""
    if not ALPACA.is_file():
        pytest.skip(f"needs the Alpaca demo records at {ALPACA}")
    return ALPACA


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPTBENCH_CACHE", str(folder))
    return folder
