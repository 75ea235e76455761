"""Seconds of the very first compiled step of a process, by cold and by warm caches.

As a module it is the process: ``python -m yardstick.first_step SPEC SIZE`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1]
LIMIT_S = 900


def first_step_seconds(spec: str, size: str) -> dict[str, Any]:
    """First steps of two processes, one after the other, that share a cache which begins empty.

    ``compile_s`` is what the optimizer itself counts of it.
    """
    with tempfile.TemporaryDirectory() as cache:
        found: dict[str, Any] = {}
        for state in ("cold", "warm"):
            one = _in_a_process(spec, size, cache)
            if "reason" in one:
                return {**found, "reason": one["reason"]}
            found |= {f"{state}_s": one["first_step_s"], f"{state}_compile_s": one["compile_s"]}
        return found


def _in_a_process(spec: str, size: str, cache: str) -> dict[str, Any]:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, "-m", "yardstick.first_step", spec, size]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=BENCHMARKS,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"the first step took more than {LIMIT_S} s"}
    if done.returncode:
        return {"reason": (done.stderr.strip().splitlines() or ["it died"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Take the first step, and print what it took."""
    import optbench_llm as ob
    from yardstick.bench import Bench
    from yardstick.contenders import Stepper

    spec, size = sys.argv[1:]
    bench = Bench(size)
    optimizer = ob.create_optimizer(bench.model, spec, engine="compiled")
    stepper = Stepper(bench, [optimizer])
    stepper.overwrites = False
    began = time.perf_counter()
    stepper.prepare()
    stepper.step()
    seconds = time.perf_counter() - began
    compile_s = optimizer.compile_s  # pyright: ignore[reportAttributeAccessIssue]
    print(json.dumps({"first_step_s": seconds, "compile_s": compile_s}))


if __name__ == "__main__":
    main()
