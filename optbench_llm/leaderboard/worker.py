"""A worker process: loads data, model and code once, then runs trial after trial.

Speaks JSON lines with its parent (see `process`): commands on standard input, events on what was
its standard output. Everything printed goes to its log instead. It ends when its input closes.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from optbench_llm.leaderboard.ranks import Ranks, end_with_torchrun
from optbench_llm.postponed import postpone_bitsandbytes

Send = Callable[..., None]
# Several processes may fail at once, and their one pipe keeps lines of up to 4096 bytes whole: as
# many characters, were each one a surrogate pair of escapes.
_REASON_LENGTH = 300


def main() -> None:
    """Take the set-up, say what this worker runs on, then run trials until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send = _claim_standard_output()
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    ranks = Ranks()
    if ranks.count > 1:
        end_with_torchrun(_end)
    if ranks.rank == 0:
        threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()

    postpone_bitsandbytes()
    # What it imports takes seconds, and the parent's end must be noticed meanwhile.
    ranks.join()
    setup = ranks.tell(commands.get)
    try:
        from optbench_llm.leaderboard.workbench import Workbench

        bench = Workbench(setup)
        facts = bench.facts()
    except (ValueError, OSError) as error:
        traceback.print_exc()
        send(event="refused", message=str(error))
        return
    ranks.meet()
    if ranks.rank == 0:
        send(event="ready", facts=facts)
    while _run(bench, ranks.tell(commands.get)["trial"], ranks, send):
        pass
    # What a failed trial left behind, such as a wait for the other processes, holds nothing up.
    os._exit(1)


def _run(bench: Any, trial: dict[str, Any], ranks: Ranks, send: Send) -> bool:
    """Run one trial, and tell how it goes; False when it failed, and this worker is spent.

    Of several processes the first tells how it goes, and each what went wrong in its part. A record
    makes a line that the pipe may tear apart: when it is sent, no other process writes any more.
    """
    if ranks.rank == 0:
        print(f"--- {trial['spec']}", file=sys.stderr, flush=True)

    def on_step(step: int, loss: float) -> None:
        if ranks.rank == 0:
            send(event="step", step=step, loss=loss)

    from optbench_llm.leaderboard.workbench import is_out_of_memory

    done = False
    try:
        record = bench.run(trial, on_step)
        done = True
        ranks.meet()
        if ranks.rank == 0:
            send(event="result", record=record.to_dict())
    except Exception as error:
        # Whatever an optimizer does is a row of the table.
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:_REASON_LENGTH]
        status = "oom" if is_out_of_memory(error) else "error"
        if ranks.rank == 0 or not done:
            send(event="failed", status=status, reason=reason)
        return False
    return True


def _claim_standard_output() -> Send:
    """Keep standard output for events; whatever else is printed goes the way of errors."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**event: Any) -> None:
        events.write(encode(event) + "\n")
        events.flush()

    return send


def encode(event: dict[str, Any]) -> str:
    """An event as JSON; whatever a foreign optimizer keeps beside its settings, as its text."""
    return json.dumps(event, default=str)


def _listen(stdin: IO[str], commands: queue.Queue[dict[str, Any]]) -> None:
    """Pass commands on; when the parent is gone, end this process and all it started."""
    for line in stdin:
        commands.put(json.loads(line))
    _end()


def _end() -> None:
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
