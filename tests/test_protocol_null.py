"""The tuned track on simulated boards whose truth is known: seldom wrong, and not blind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Hundreds of boards of each kind, searched and compared.
pytestmark = pytest.mark.slow


def simulated(monkeypatch: pytest.MonkeyPatch, rows: int, c: float) -> dict[str, Any]:
    """Figures of 300 boards of ``rows`` rows whose loss is ``c`` sigma per decade squared steep."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from protocol_figures import figures

    return figures(rows, c, boards=300)


@pytest.mark.parametrize("c", [0, 5, 20, 80])
def test_a_large_board_claims_what_is_so(monkeypatch, c):
    """24 rows: claims about equals on 5 % of boards at most, 95 % intervals, 4 sigma found."""
    found = simulated(monkeypatch, 24, c)
    _assert_honest(found)
    assert found["power"] >= 0.7


@pytest.mark.parametrize("c", [0, 5, 20, 80])
def test_a_small_board_claims_what_is_so(monkeypatch, c):
    """6 rows by paired t of 4 degrees of freedom: as honest, of less power where c is large."""
    found = simulated(monkeypatch, 6, c)
    _assert_honest(found)
    assert found["power"] >= (0.7 if c < 80 else 0.4)


def _assert_honest(found: dict[str, Any]) -> None:
    assert found["any_false_claim"] <= 0.05
    assert found["any_false_claim_if_all_equal"] <= 0.05
    assert found["a_a_differs"] <= 0.05
    assert found["all_ranks_kept_if_all_equal"] >= 0.95
    assert 0.93 <= found["coverage"] <= 0.97
    assert 0.93 <= found["coverage_of_losses"] <= 0.97
