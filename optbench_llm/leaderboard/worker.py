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

Send = Callable[..., None]


def main() -> None:
    """Take the set-up, say what this worker runs on, then run trials until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send = _claim_standard_output()
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()

    setup = commands.get()
    # Imported here: it takes seconds, and the parent's end must be noticed meanwhile.
    try:
        from optbench_llm.leaderboard.workbench import Workbench

        bench = Workbench(setup)
        send(event="ready", facts=bench.facts())
    except (ValueError, OSError) as error:
        traceback.print_exc()
        send(event="refused", message=str(error))
        return
    while True:
        _run(bench, commands.get()["trial"], send)


def _run(bench: Any, trial: dict[str, Any], send: Send) -> None:
    print(f"--- {trial['spec']}", file=sys.stderr, flush=True)
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        send(event="step", step=step, loss=loss)

    from optbench_llm.leaderboard.workbench import is_out_of_memory

    try:
        record = bench.run(trial, on_step)
        send(event="result", record=record, losses=record.pop("losses"), healthy=True)
    except Exception as error:
        # Whatever an optimizer does is a row of the table: the parent replaces this worker.
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record = {
            "status": "oom" if is_out_of_memory(error) else "error",
            "reason": reason,
            "optimizer": trial["spec"],
            "lr": trial["lr"],
            "seed": trial["seed"],
            "steps": len(losses),
        }
        send(event="result", record=record, losses=losses, healthy=False)


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
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
