"""Marks of single parameters."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Parameters of a test for which it is slow: more of a kind that others show already."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
