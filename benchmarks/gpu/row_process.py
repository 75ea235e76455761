"""The process that steps rows: a line of JSON in, ``{"spec", "engine", "device"}``, and one out."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from typing import Any

import numpy as np
import torch
from oracles import CASES
from oracles.comparison import bearable, distance, make_optimizer, make_parameter, take_step
from oracles.inputs import parameter
from oracles.proof import Shape

from gpu.lanes import SPENT
from gpu.tolerances import DISTANCE

#: Several blocks of a kernel and an end that fills none; elements enough for 8-bit state.
SHAPES = (Shape((1031,)), Shape((70, 130)), Shape((65, 96), transposed=True))
STEPS = 5
SYNC = "called a synchronizing CUDA operation"


class Course:
    """A row's five steps on a device: the parameters after each, the state after the last."""

    def __init__(self, spec: str, engine: str, device: str) -> None:
        hyperparameters = CASES[spec.partition("@")[0]][0]
        self.shapes = bearable(spec, SHAPES)
        self.waits: list[str] = []
        params = [make_parameter(s, i, torch.float32, device) for i, s in enumerate(self.shapes)]
        self.optimizer = make_optimizer(params, spec, engine=engine, **hyperparameters)
        steps = []
        for t in range(1, STEPS + 1):
            take_step(self.optimizer, params, self.shapes, t)
            steps.append([p.detach().cpu().double().numpy() for p in params])
        self.paths = [np.stack(path) for path in zip(*steps, strict=True)]
        self.codes = [
            value.cpu().int()
            for p in params
            for value in self.optimizer.state[p].values()
            if getattr(value, "dtype", None) in (torch.int8, torch.uint8)
        ]
        if device == "cuda":
            self.waits = waits_of_one_more_step(self.optimizer)


def compared(spec: str, engine: str, device: str) -> dict[str, Any]:
    """How far a row on a device strays from the CPU's, by all that `tolerances` looks at."""
    reference = Course(spec, "eager", "cpu")
    began = time.perf_counter()
    course = Course(spec, engine, device)
    seconds = time.perf_counter() - began
    starts = [parameter(shape.sizes, index) for index, shape in enumerate(course.shapes)]
    triples = list(zip(course.paths, reference.paths, starts, strict=True))
    numbers: dict[str, Any] = {
        "seconds": seconds,
        # Not max(): it would pass over a NaN.
        "distance": float(np.max([distance(*triple) for triple in triples])),
        "share_beyond": float(np.max([share_beyond(*triple) for triple in triples])),
    }
    if course.codes:
        apart = torch.cat([a - b for a, b in zip(course.codes, reference.codes, strict=True)]).abs()
        numbers["codes_differing"] = float((apart > 0).float().mean())
        numbers["codes_apart"] = int(apart.max())
    if device == "cuda":
        numbers |= {"syncs": len(course.waits), "sync_lines": course.waits}
    return numbers


def share_beyond(path: np.ndarray, reference: np.ndarray, start: np.ndarray) -> float:
    """Of the elements that are ever further off than DISTANCE of the largest displacement."""
    limit = DISTANCE * np.abs(reference - start).max()
    return float((~(np.abs(path - reference) <= limit)).any(axis=0).mean())


def waits_of_one_more_step(optimizer: Any) -> list[str]:
    """The lines from which a warmed-up step makes the host wait for the device."""
    optimizer.gradients_made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if SYNC in str(w.message)]


def result_of(task: dict[str, Any]) -> dict[str, Any]:
    """A task's numbers, or what the engine refused, or how it failed."""
    try:
        return compared(**task)
    except ValueError as error:
        return {"refused": str(error)}
    except Exception as error:
        # Whatever a kernel does is a row of the report.
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {"error": reason, SPENT: task["device"] == "cuda"}


def main() -> None:
    """Answer line by line until standard input closes."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(result_of(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
