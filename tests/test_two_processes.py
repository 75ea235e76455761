"""What the tests' own processes do where one of them dies."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
from two_processes import on_two

# Starts processes.
pytestmark = pytest.mark.slow


def touch_nothing(calls: Path, times: int) -> None:
    """The second process reads where no memory is, in its first calls; a file counts them."""
    if os.environ["RANK"] == "1":
        with calls.open("a") as made:
            made.write("x")
        if len(calls.read_text()) <= times:
            ctypes.string_at(0)


def test_a_group_that_dies_of_its_memory_is_started_again_and_says_where(tmp_path):
    with pytest.warns(UserWarning, match=r"started again: exit codes .*-11(.|\n)*in touch_nothing"):
        on_two(touch_nothing, tmp_path / "calls", 1)
    assert (tmp_path / "calls").read_text() == "xx"


def test_a_group_that_dies_of_its_memory_twice_fails(tmp_path):
    frame = r"exit codes .*-11(.|\n)*frame #\d+: ffi_call(.|\n)*in touch_nothing"
    with pytest.warns(UserWarning, match="again"), pytest.raises(AssertionError, match=frame):
        on_two(touch_nothing, tmp_path / "calls", 9)
    assert (tmp_path / "calls").read_text() == "xx"
