"""The proofs of the first catalog's further rules that see each element by itself."""

from __future__ import annotations

from oracles.proof import LR_0_MIDWAY, Proof
from oracles.rates import adamod, diffgrad, madgrad, qhadam, rprop
from oracles.velocities import accsgd, aggmo, pid, qhm

FIRST_STEP_SIZE = "its lr is the first step size alone, and no step is below the smallest"

PROOFS: dict[str, Proof] = {
    "accsgd": Proof(
        accsgd,
        [
            {"lr": 0.05, "kappa": 30.0, "xi": 4.0, "small_const": 0.6, "weight_decay": 0.1},
            {"lr": 0.02, "kappa": 100.0, "xi": 9.0, "small_const": 0.9, "weight_decay": 0.3},
        ],
        "steps are proportional to the gradient",
        {LR_0_MIDWAY: "it is still drawn to its average of long steps"},
    ),
    "adamod": Proof(
        adamod,
        [
            {"lr": 0.1, "betas": (0.8, 0.95), "beta3": 0.9, "eps": 0.01, "weight_decay": 0.2},
            {"lr": 0.05, "betas": (0.7, 0.9), "beta3": 0.5, "eps": 0.01, "weight_decay": 0.1},
        ],
        {"eps": 0.0},
    ),
    "aggmo": Proof(
        aggmo,
        [
            {"lr": 0.1, "betas": (0.3, 0.6, 0.9), "weight_decay": 0.1},
            {"lr": 0.1, "betas": (0.0, 0.8, 0.95), "weight_decay": 0.2},
            {"lr": 0.1, "betas": (0.7, 0.7, 0.0), "weight_decay": 0.1},
        ],
        "steps are proportional to the gradient",
    ),
    "diffgrad": Proof(
        diffgrad,
        [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.1}],
        "its friction compares the gradient's change with 1",
    ),
    "madgrad": Proof(
        madgrad,
        [
            {"lr": 0.05, "momentum": 0.7, "eps": 0.01, "weight_decay": 0.1},
            {"lr": 0.02, "momentum": 0.0, "eps": 0.001, "weight_decay": 0.2},
        ],
        "steps grow with the cube root of the gradient's scale",
        {LR_0_MIDWAY: "it is still drawn to the point of its dual averaging"},
    ),
    "pid": Proof(
        pid,
        [
            {
                "lr": 0.02,
                "momentum": 0.8,
                "integral": 2.0,
                "derivative": 7.0,
                "weight_decay": 0.1,
            },
            {
                "lr": 0.05,
                "momentum": 0.5,
                "integral": 0.5,
                "derivative": 3.0,
                "weight_decay": 0.2,
            },
        ],
        "steps are proportional to the gradient",
    ),
    "qhadam": Proof(
        qhadam,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "nus": (0.6, 0.8),
                "eps": 0.01,
                "weight_decay": 0.1,
            },
            {
                "lr": 0.05,
                "betas": (0.9, 0.9),
                "nus": (0.7, 1.0),
                "eps": 0.01,
                "weight_decay": 0.2,
            },
        ],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "qhm": Proof(
        qhm,
        [
            {"lr": 0.3, "momentum": 0.9, "nu": 0.6, "weight_decay": 0.1},
            {"lr": 0.2, "momentum": 0.7, "nu": 1.0, "weight_decay": 0.2},
        ],
        "steps are proportional to the gradient",
    ),
    "rprop": Proof(
        rprop,
        [
            {"lr": 0.05, "etas": (0.6, 1.3), "step_sizes": (0.02, 0.15), "weight_decay": 0.3},
            {"lr": 0.02, "etas": (0.4, 1.5), "step_sizes": (0.001, 1.0), "weight_decay": 0.1},
        ],
        {"weight_decay": 0.0},
        {
            "test_an_lr_of_zero_from_the_start_moves_nothing": FIRST_STEP_SIZE,
            LR_0_MIDWAY: FIRST_STEP_SIZE,
            "test_hyperparameters_changed_in_the_groups_take_effect": FIRST_STEP_SIZE,
        },
    ),
}
