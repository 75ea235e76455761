"""The cache: whole files or nothing, built once however many processes ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optbench_llm.cache import build_once, cache_dir, file_hash, read_checked, write_checked

BUILDER = """
import sys, time
from pathlib import Path
from optbench_llm.cache import build_once

target, log = Path(sys.argv[1]), Path(sys.argv[2])

def is_intact(folder):
    return (folder / "whole").is_file()

def build(folder):
    folder.mkdir()
    with log.open("a") as stream:
        stream.write("built\\n")
    time.sleep(float(sys.argv[3]))
    (folder / "whole").write_text("content")

print((build_once(target, is_intact, build) / "whole").read_text())
"""


def start_builder(target: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(target), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("damaged", [False, True])
def test_of_several_processes_one_builds_and_all_read(damaged: bool, tmp_path: Path) -> None:
    """Also where a damaged folder has to make way, nobody fails and nothing is built twice."""
    target, log = tmp_path / "models" / "some", tmp_path / "log"
    if damaged:
        target.mkdir(parents=True)
        (target / "part").write_text("half")
    builders = [start_builder(target, log, 0.5) for _ in range(4)]
    outputs = [builder.communicate(timeout=60) for builder in builders]
    assert [out.strip() for out, _ in outputs] == ["content"] * 4, outputs
    assert log.read_text() == "built\n"
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_what_a_killed_builder_left_is_cleared(tmp_path: Path) -> None:
    """Neither its lock nor its half-built folder is in the way of the next one."""
    target, log = tmp_path / "models" / "some", tmp_path / "log"
    killed = start_builder(target, log, 60)
    wait_for(log)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not target.exists()
    # The builder of any other target in the same folder clears it.
    write_checked(target.with_name("other"), b"content")
    names = {path.name for path in target.parent.iterdir()}
    assert names == {".lock", "other"}


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """The error passes through; the next call builds."""

    def build(path: Path) -> None:
        path.write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        build_once(tmp_path / "kept" / "file", Path.is_file, build)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch) -> None:
    """Also when it shows only while writing, and when the home folder does not exist."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="set OPTBENCH_CACHE"):
        write_checked(tmp_path / "file" / "entry", b"content")
    monkeypatch.setenv("OPTBENCH_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(ValueError, match="no such home folder"):
        cache_dir()


def test_what_cannot_be_read_is_absent_or_named(tmp_path: Path) -> None:
    """A cache entry is made anew; a user's file is an error that names it."""
    assert read_checked(tmp_path) is None
    with pytest.raises(ValueError, match=r"gone\.bin cannot be read: No such file"):
        file_hash(tmp_path / "gone.bin")
