"""Others' implementations of rules that came after the first catalog."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    DECOUPLED,
    MOMENTUM,
    Comparison,
    Counterpart,
    P,
    named,
)

COMPARISONS: Mapping[str, Comparison] = {
    "adopt": Comparison(
        {**ADAM, "betas": (0.8, 0.95), "decouple": False},
        (
            Counterpart(
                P + "ADOPT",
                named({"decouple": "weight_decouple"}, clip_lambda=lambda step: (step - 1) ** 0.25),
                known="theirs counts steps from 1 and by default clips at t^(1/4), the authors and"
                " ours at (t-1)^(1/4); told so, they agree",
            ),
        ),
    ),
    "ademamix": Comparison(
        {
            **ADAM,
            "betas": (0.8, 0.95, 0.98),
            "alpha": 2.0,
            "alpha_warmup": 15,
            "beta3_warmup": 15,
        },
        (
            Counterpart(
                P + "AdEMAMix",
                named(
                    {"alpha_warmup": "t_alpha_beta3"},
                    drop=("beta3_warmup",),
                    weight_decouple=True,
                ),
            ),
            Counterpart(
                "bnb:AdEMAMix",
                named({"alpha_warmup": "t_alpha", "beta3_warmup": "t_beta3"}),
            ),
        ),
    ),
    "mars": Comparison(
        {**ADAM, "gamma": 0.1},
        (
            Counterpart(
                P + "MARS",
                named(optimize_1d=True),
                at={"eps": 1e-10, "betas": (0.8, 0.5)},
                known="theirs adds eps to the uncorrected root, and 1e-15 to the second moment,"
                " which small gradients feel",
            ),
        ),
    ),
    "signum": Comparison(
        MOMENTUM,
        (Counterpart(P + "SignSGD", DECOUPLED),),
    ),
    "laprop": Comparison(
        ADAM,
        (
            Counterpart(
                P + "LaProp",
                DECOUPLED,
                at={"eps": 1e-10},
                known="theirs adds eps to the uncorrected root",
            ),
        ),
    ),
    "radam-schedulefree": Comparison(
        {**ADAM, "lr": 0.1, "r": 0.5, "weight_lr_power": 1.5, "silent_sgd_phase": False},
        (
            Counterpart("schedulefree:RAdamScheduleFree"),
            Counterpart(
                P + "ScheduleFreeRAdam",
                at={"silent_sgd_phase": True},
                known="theirs takes 1 instead of lr for the steps before the rectification, unless"
                " they are silent",
            ),
        ),
    ),
    "cautious-lion": Comparison(
        {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3},
        (
            Counterpart(
                P + "Lion",
                named(weight_decouple=True, cautious=True),
                note="cautious",
                known="theirs divides by the mean of the mask plus one element, as the paper does,"
                " ours by the mean; told so, it agrees within 1e-6",
                agrees=False,
            ),
        ),
    ),
    "stableadamw": Comparison(
        ADAM,
        (Counterpart(P + "StableAdamW"),),
    ),
    "grams": Comparison(
        ADAM,
        (Counterpart(P + "Grams", DECOUPLED),),
    ),
}
