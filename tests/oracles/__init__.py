"""Float64 references of the rules: slow, obvious, one generator for each optimizer.

Each is written from the paper (or the reference implementation that the catalog names), not from
the rule. An oracle takes the first parameter, a numpy array, and the steps: it yields the parameter
after each. State lives in local variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oracles.adaptive import adabelief, adabound, adadelta, adagrad, radam, rmsprop, yogi
from oracles.factored import adafactor
from oracles.layerwise import lamb, lars, novograd
from oracles.moments import adam, adamax, adamw, adan, nadam
from oracles.momentum import lion, sgd, sophia
from oracles.projected import adamp, sgdp
from oracles.schedulefree import adamw_schedulefree, sgd_schedulefree
from oracles.step import Path, Step

Oracle = Callable[..., Path]


ORACLES: dict[str, Oracle] = {
    "adabelief": adabelief,
    "adabound": adabound,
    "adadelta": adadelta,
    "adafactor": adafactor,
    "adagrad": adagrad,
    "adam": adam,
    "adamax": adamax,
    "adamp": adamp,
    "adamw": adamw,
    "adamw-schedulefree": adamw_schedulefree,
    "adan": adan,
    "lamb": lamb,
    "lars": lars,
    "lion": lion,
    "nadam": nadam,
    "novograd": novograd,
    "radam": radam,
    "rmsprop": rmsprop,
    "sgd": sgd,
    "sgd-schedulefree": sgd_schedulefree,
    "sgdp": sgdp,
    "sophia": sophia,
    "yogi": yogi,
}


__all__ = ["ORACLES", "Step", "run_oracle"]


def run_oracle(name: str, theta: np.ndarray, steps: list[Step], **h: Any) -> list[np.ndarray]:
    """The parameter after each step, in float64."""
    return [np.array(p) for p in ORACLES[name](np.array(theta, dtype=np.float64), steps, **h)]
