"""What the tests' own processes are forked from, and what is said where one of them dies."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
from two_processes import on_two

# Starts processes.
pytestmark = pytest.mark.slow


def touch_nothing() -> None:
    """The second process reads where no memory is."""
    if os.environ["RANK"] == "1":
        ctypes.string_at(0)


def look_at_the_server() -> None:
    """Raise where what this process was forked from has more than one thread."""
    tasks = Path(f"/proc/{os.getppid()}/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()]
    assert len(names) == 1, names


def test_processes_are_forked_from_one_thread():
    """What others hold at a fork is held in the new process for ever, or half done."""
    on_two(look_at_the_server)


def test_a_process_that_dies_of_its_memory_says_where():
    """In C++ and in Python, for each that dies."""
    where = r"exit codes .*-11(.|\n)*frame #\d+: ffi_call(.|\n)*in touch_nothing"
    with pytest.raises(AssertionError, match=where):
        on_two(touch_nothing)
