"""SIGTERM and a closed session end a command as Ctrl-C does: by a KeyboardInterrupt."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What Slurm, Kubernetes, spot machines and ``kill`` send; what a closed terminal sends.
HEEDED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; whatever cleans up after Ctrl-C does so after it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def signal_of(interrupt: KeyboardInterrupt) -> signal.Signals:
    """The signal behind an interrupt."""
    return interrupt.signal if isinstance(interrupt, Stopped) else signal.SIGINT


def exit_code(number: signal.Signals) -> int:
    """The exit code of a process that a signal ended, as shells give it: 130, 143, 129."""
    return 128 + number


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread when SIGTERM or SIGHUP comes, once, or Ctrl-C.

    A signal that is ignored, as under nohup, stays so. What fails after the signal failed by it.
    Python takes a plain KeyboardInterrupt for unhandled, whoever catches it later, where it passes
    a text that ``exec`` runs, as while torch loads: under ``python -m`` the process would die of
    SIGINT at its end in the place of exiting.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number != signal.SIGINT:
            return  # timeout(1) and Slurm tell a group and each process: clean-up goes on
        received.append(number)
        _leave_dead_terminal()
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HEEDED}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.default_int_handler
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        # A data loader's process, say, that got the signal too and was missed first.
        if received:
            raise Stopped(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_dead_terminal() -> None:
    """Write to nowhere where the terminal is gone: no last word may spoil the clean-up."""
    for stream in (1, 2):
        try:
            os.ttyname(stream)
        except OSError as error:
            if error.errno == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
