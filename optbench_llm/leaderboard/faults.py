"""What pydantic found wrong, in one line."""

from __future__ import annotations

from pydantic import ValidationError


def first_fault(error: ValidationError, *parents: str) -> str:
    """``key: what is wrong`` of the first fault; ``parents`` are the keys around what was read."""
    detail = error.errors()[0]
    key = ".".join(map(str, (*parents, *detail["loc"])))
    return f"{key}: {detail['msg']}" if key else detail["msg"]
