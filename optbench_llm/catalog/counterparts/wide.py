"""Others' implementations of rules that see a whole tensor or the whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    Arguments,
    Comparison,
    Counterpart,
    P,
    Settings,
    named,
    same,
)


def _growing(arguments: Arguments) -> Arguments:
    """Growth without a bound is None to ours and infinite to theirs."""

    def found(settings: Settings) -> dict[str, Any]:
        bound = settings["growth_rate"]
        return arguments({**settings, "growth_rate": math.inf if bound is None else bound})

    return found


COMPARISONS: Mapping[str, Comparison] = {
    "swats": Comparison(
        {**ADAM, "tolerance": 1e-9},
        (
            Counterpart(
                P + "SWATS",
                named(drop=("tolerance",), weight_decouple=False),
                at={"eps": 1e-4},
                known="theirs switches the whole group as soon as one tensor's own estimate settles"
                " within eps, ours when the model's does; here neither switches",
            ),
        ),
    ),
    "apollo": Comparison(
        {"lr": 0.01, "beta": 0.8, "eps": 1e-2, "weight_decay": 0.1, "decouple": False},
        (
            Counterpart(
                P + "ApolloDQN",
                named(drop=("decouple",), weight_decay_type="l2", warmup_steps=0),
            ),
        ),
    ),
    "prodigy": Comparison(
        {
            "lr": 1.0,
            "betas": (0.8, 0.95),
            "beta3": 0.9,
            "eps": 1e-2,
            "weight_decay": 0.2,
            "decouple": True,
            "use_bias_correction": True,
            "safeguard_warmup": True,
            "d0": 1e-2,
            "d_coef": 0.5,
            "growth_rate": 1.1,
        },
        (
            Counterpart("prodigyopt:Prodigy", _growing(same)),
            Counterpart(
                P + "Prodigy",
                _growing(
                    named({"decouple": "weight_decouple", "use_bias_correction": "bias_correction"})
                ),
                at={"use_bias_correction": False},
            ),
        ),
    ),
    "came": Comparison(
        {
            "lr": 0.05,
            "betas": (0.8, 0.9, 0.95),
            "eps": (1e-3, 1e-2),
            "clip_threshold": 0.9,
            "weight_decay": 0.2,
        },
        (
            Counterpart(
                P + "CAME",
                lambda h: {
                    "eps1": h["eps"][0],
                    "eps2": h["eps"][1],
                    **{k: h[k] for k in ("lr", "betas", "clip_threshold", "weight_decay")},
                },
            ),
        ),
    ),
}
