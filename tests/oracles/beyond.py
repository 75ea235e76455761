"""Proofs of the rules that came after the first catalog."""

from __future__ import annotations

from oracles.adam_descendants import ademamix, adopt, laprop, mars, stableadamw
from oracles.proof import LR_0_MIDWAY, Proof
from oracles.schedulefree import radam_schedulefree
from oracles.signs import cautious_adamw, cautious_lion, grams, signum

ADAMW = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.001, "weight_decay": 0.2}

PROOFS: dict[str, Proof] = {
    "adopt": Proof(
        adopt,
        [{**ADAMW, "eps": 0.2, "decouple": True}, {**ADAMW, "eps": 0.1, "decouple": False}],
        {"eps": 0.0},
    ),
    "ademamix": Proof(
        ademamix,
        [
            {
                "lr": 0.02,
                "betas": (0.8, 0.95, 0.98),
                "alpha": 3.0,
                "alpha_warmup": 12,
                "beta3_warmup": 9,
                "eps": 0.001,
                "weight_decay": 0.2,
            },
            {
                "lr": 0.02,
                "betas": (0.7, 0.9, 0.95),
                "alpha": 5.0,
                "alpha_warmup": None,
                "beta3_warmup": None,
                "eps": 0.001,
                "weight_decay": 0.1,
            },
        ],
        {"eps": 0.0},
    ),
    "mars": Proof(
        mars,
        [{**ADAMW, "gamma": 0.1}, {**ADAMW, "betas": (0.9, 0.98), "gamma": 0.05}],
        "gradients of norm 1 and less are not normalised",
    ),
    "signum": Proof(
        signum,
        [
            {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.3},
            {"lr": 0.03, "momentum": 0.0, "weight_decay": 0.2},
        ],
        {},
    ),
    "laprop": Proof(laprop, [{**ADAMW, "eps": 0.01}], {"eps": 0.0}),
    "radam-schedulefree": Proof(
        radam_schedulefree,
        [
            {
                "lr": 0.1,
                "betas": (0.9, 0.97),
                "eps": 0.01,
                "weight_decay": 0.1,
                "r": 0.0,
                "weight_lr_power": 1.0,
                "silent_sgd_phase": False,
            },
            {
                "lr": 0.1,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.2,
                "r": 0.5,
                "weight_lr_power": 1.5,
                "silent_sgd_phase": True,
            },
        ],
        {"eps": 0.0, "silent_sgd_phase": True},
        {LR_0_MIDWAY: "y still moves between z and their average"},
    ),
    "cautious-adamw": Proof(cautious_adamw, [ADAMW], {"eps": 0.0}),
    "cautious-lion": Proof(
        cautious_lion, [{"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3}], {}
    ),
    "stableadamw": Proof(
        stableadamw, [ADAMW, {**ADAMW, "betas": (0.7, 0.8), "eps": 0.3}], {"eps": 0.0}
    ),
    "grams": Proof(grams, [ADAMW], {"eps": 0.0}),
}
