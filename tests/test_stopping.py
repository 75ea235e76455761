"""SIGTERM and SIGHUP are as Ctrl-C; one that comes again disturbs no clean-up."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optbench_llm.stopping import HEEDED, Stopped, exit_code, heeding_signals, signal_of


def tell(number: int) -> None:
    """Send this process a signal, and wait for it."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", HEEDED)
def test_a_signal_is_a_keyboard_interrupt_that_names_it(number):
    """And the handler of before is back afterwards."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, heeding_signals():
        tell(number)
    assert signal_of(caught.value) == number
    assert exit_code(signal_of(caught.value)) == 128 + number
    assert signal_of(KeyboardInterrupt()) == signal.SIGINT
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_cut_the_clean_up():
    """timeout(1) and Slurm tell a group and each of its processes."""
    cleaned = []

    def work() -> None:
        try:
            tell(signal.SIGTERM)
        finally:
            tell(signal.SIGTERM)
            tell(signal.SIGHUP)
            cleaned.append(True)

    with pytest.raises(Stopped), heeding_signals():
        work()
    assert cleaned


def test_what_fails_by_the_signal_is_the_signal():
    """A data loader's process that got it too, and whose end is noticed during the clean-up."""

    def work() -> None:
        try:
            tell(signal.SIGTERM)
        except Stopped as stopped:
            raise RuntimeError("a worker was killed") from stopped

    with pytest.raises(Stopped), heeding_signals():
        work()
    with pytest.raises(RuntimeError), heeding_signals():
        raise RuntimeError("no signal came")


def test_what_is_ignored_stays_ignored():
    """As a command under nohup expects."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeding_signals():
            tell(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED_TERMINAL = """
import sys, time
from optbench_llm.stopping import heeding_signals, signal_of
try:
    with heeding_signals():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt as interrupt:
    print("last words", flush=True)
    open(sys.argv[1], "w").write(signal_of(interrupt).name)
"""


def test_a_closed_terminal_spoils_no_clean_up(tmp_path):
    """What is printed then would be an error; it goes nowhere."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-c", CLOSED_TERMINAL, str(tmp_path / "done")]
        os.execv(sys.executable, command)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "done").read_text() == "SIGHUP"


# Starts processes that load torch.
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, *HEEDED])
def test_every_command_ends_in_a_line(number):
    """Also one that loads and computes, without a traceback."""
    command = [sys.executable, "-m", "optbench_llm", "audit", "adamw", "--steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, "interrupted\n")


LOADING = """
import os, signal, sys
from optbench_llm.stopping import exit_code, heeding_signals, signal_of
try:
    with heeding_signals():
        exec("os.kill(os.getpid(), signal.SIGINT)")
except KeyboardInterrupt as interrupt:
    sys.exit(exit_code(signal_of(interrupt)))
"""


def test_ctrl_c_while_libraries_run_texts_is_an_exit_too(tmp_path):
    """Not death by SIGINT after all was cleaned up, as of other modules under python -m."""
    (tmp_path / "loading.py").write_text(LOADING)
    command = [sys.executable, "-m", "loading"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_cuts_a_clean_up_that_takes_long():
    """A second one is meant."""
    cleaned = []

    def work() -> None:
        try:
            tell(signal.SIGINT)
        finally:
            tell(signal.SIGINT)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), heeding_signals():
        work()
    assert not cleaned
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
