"""An attribute of somebody else's, replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_INHERITED = object()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let ``owner.name`` be ``value`` within; after it, whatever happens, all is as it was.

    Raises:
        AttributeError: The owner has no such attribute.
    """
    getattr(owner, name)
    # Not what getattr returns: of a static method that is the bare function.
    kept = vars(owner).get(name, _INHERITED)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if kept is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)
