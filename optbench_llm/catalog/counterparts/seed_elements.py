"""Others' implementations of rules that step each element by itself."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    COUPLED,
    MOMENTUM,
    Comparison,
    Counterpart,
    P,
    named,
)

COMPARISONS: Mapping[str, Comparison] = {
    "rprop": Comparison(
        {"lr": 0.05, "etas": (0.6, 1.3), "step_sizes": (0.02, 0.15), "weight_decay": 0.0},
        (Counterpart("torch:Rprop", named(drop=("weight_decay",))),),
    ),
    "qhm": Comparison(
        {**MOMENTUM, "lr": 0.3, "nu": 0.6},
        (Counterpart(P + "QHM", COUPLED),),
    ),
    "qhadam": Comparison(
        {**ADAM, "nus": (0.6, 0.8)},
        (Counterpart(P + "QHAdam", COUPLED),),
    ),
    "aggmo": Comparison(
        {"lr": 0.1, "betas": (0.3, 0.6, 0.9), "weight_decay": 0.1},
        (Counterpart(P + "AggMo", COUPLED),),
    ),
    "pid": Comparison(
        {**MOMENTUM, "lr": 0.02, "integral": 2.0, "derivative": 7.0},
        (Counterpart(P + "PID", COUPLED),),
    ),
    "accsgd": Comparison(
        {"lr": 0.05, "kappa": 30.0, "xi": 4.0, "small_const": 0.6, "weight_decay": 0.1},
        (Counterpart(P + "AccSGD", named({"small_const": "constant"})),),
    ),
    "adamod": Comparison(
        {**ADAM, "beta3": 0.9},
        (
            Counterpart(
                P + "AdaMod",
                lambda h: {
                    "betas": (*h["betas"], h["beta3"]),
                    **{k: h[k] for k in ("lr", "eps", "weight_decay")},
                },
            ),
        ),
    ),
    "diffgrad": Comparison(ADAM, (Counterpart(P + "DiffGrad", COUPLED),)),
    "madgrad": Comparison(
        {**MOMENTUM, "lr": 0.05, "eps": 1e-2},
        (Counterpart(P + "MADGRAD", COUPLED),),
    ),
}
