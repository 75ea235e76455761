"""What strict JSON can hold."""

from __future__ import annotations

import math
from typing import Any


def finite_only(value: Any) -> Any:
    """``value`` with NaN and infinities, for which JSON has no word, as None; tuples as lists."""
    if isinstance(value, dict):
        return {key: finite_only(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
