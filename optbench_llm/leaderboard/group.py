"""A worker of several processes as torchrun starts them; ends as the first of them that failed.

The processes speak for themselves: they inherit this one's standard input and output.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main(setup: dict[str, Any], program: list[str]) -> None:
    """Run ``program``, arguments for Python, in the processes that ``setup`` asks for."""
    from optbench_llm.launch import launch
    from optbench_llm.stopping import signal_of

    try:
        code = launch(setup["processes"], program, scratch=setup["scratch"])
    except KeyboardInterrupt as interrupt:
        code = -signal_of(interrupt)
    if code < 0:
        # The parent tells from it what happened, and whether memory ran out.
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
