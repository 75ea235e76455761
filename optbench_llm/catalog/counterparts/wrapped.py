"""Others' implementations of wrapped rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    Comparison,
    Counterpart,
    P,
    Settings,
    named,
)

WRAPPER = ("schedulefree_momentum", "schedulefree_r", "schedulefree_weight_lr_power")


def wrapper(settings: Settings) -> dict[str, Any]:
    """Arguments of a schedule-free wrapper, which are not its base's."""
    return {name.removeprefix("schedulefree_"): settings[name] for name in WRAPPER}


COMPARISONS: Mapping[str, Comparison] = {
    "lookahead": Comparison(
        {**ADAM, "lookahead_k": 3, "lookahead_alpha": 0.4},
        (
            Counterpart(
                P + "Lookahead",
                lambda h: {"k": h["lookahead_k"], "alpha": h["lookahead_alpha"]},
                base="torch:Adam",
                base_arguments=named(drop=("lookahead_k", "lookahead_alpha")),
            ),
        ),
    ),
    "ranger": Comparison(
        {**ADAM, "use_gc": True, "lookahead_k": 3, "lookahead_alpha": 0.4},
        (
            Counterpart(
                P + "Ranger",
                named({"lookahead_k": "k", "lookahead_alpha": "alpha"}, degenerated_to_sgd=True),
            ),
        ),
    ),
    "schedulefree+sgd": Comparison(
        {
            "lr": 0.2,
            "momentum": 0.0,
            "dampening": 0.0,
            "nesterov": False,
            "weight_decay": 0.1,
            "schedulefree_momentum": 0.8,
            "schedulefree_r": 0.5,
            "schedulefree_weight_lr_power": 1.5,
        },
        (
            Counterpart(
                P + "ScheduleFreeWrapper",
                wrapper,
                base="torch:SGD",
                base_arguments=named(drop=WRAPPER),
            ),
        ),
    ),
}
