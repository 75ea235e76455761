"""The proofs of the rules that the published table names."""

from __future__ import annotations

from oracles.adaptive import adabelief, adabound, adadelta, adagrad, radam, rmsprop, yogi
from oracles.factored import adafactor
from oracles.layerwise import lamb, lars, novograd
from oracles.moments import adam, adamax, adamw, adan, nadam
from oracles.momentum import lion, sgd, sophia
from oracles.projected import adamp, sgdp
from oracles.proof import LR_0_MIDWAY, Proof
from oracles.schedulefree import adamw_schedulefree, sgd_schedulefree

PROOFS = {
    "adabelief": Proof(
        adabelief,
        [
            {"lr": 0.05, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.1, "rectify": True},
            {"lr": 0.05, "betas": (0.85, 0.95), "eps": 0.01, "weight_decay": 0.2, "rectify": False},
        ],
        {"eps": 0.0, "rectify": False},
    ),
    "adabound": Proof(
        adabound,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "final_lr": 0.2,
                "gamma": 0.05,
                "eps": 0.01,
                "weight_decay": 0.1,
            },
            {
                "lr": 0.3,
                "betas": (0.7, 0.9),
                "final_lr": 0.02,
                "gamma": 0.5,
                "eps": 0.01,
                "weight_decay": 0.2,
            },
        ],
        "its bounds are step sizes in themselves",
    ),
    "adadelta": Proof(
        adadelta,
        [
            {"lr": 5.0, "rho": 0.8, "eps": 0.01, "weight_decay": 0.1},
            {"lr": 1.5, "rho": 0.5, "eps": 0.01, "weight_decay": 0.3},
        ],
        "eps is the seed of its steps and cannot be 0",
    ),
    "adafactor": Proof(
        adafactor,
        [
            {
                "lr": 0.2,
                "eps": (0.001, 0.01),
                "clip_threshold": 0.7,
                "decay_rate": 0.6,
                "beta1": 0.8,
                "weight_decay": 0.1,
                "scale_parameter": True,
                "relative_step": True,
            },
            {
                "lr": 0.6,
                "eps": (0.01, 0.7),
                "clip_threshold": 2.0,
                "decay_rate": 0.9,
                "beta1": None,
                "weight_decay": 0.05,
                "scale_parameter": True,
                "relative_step": True,
            },
            {
                "lr": 0.05,
                "eps": (1e-30, 0.001),
                "clip_threshold": 1.0,
                "decay_rate": 0.8,
                "beta1": None,
                "weight_decay": 0.1,
                "scale_parameter": False,
                "relative_step": False,
            },
        ],
        {"eps": (0.0, 0.001)},
        {LR_0_MIDWAY: "its beta1 averages whole updates, lr included"},
    ),
    "adagrad": Proof(
        adagrad,
        [
            {
                "lr": 0.2,
                "lr_decay": 0.05,
                "initial_accumulator_value": 0.1,
                "eps": 0.01,
                "weight_decay": 0.1,
            }
        ],
        {"eps": 0.0, "initial_accumulator_value": 0.0, "weight_decay": 0.0},
    ),
    "adam": Proof(
        adam,
        [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.1}],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "adamax": Proof(
        adamax,
        [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.1}],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "adamp": Proof(
        adamp,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "delta": 0.9,
                "wd_ratio": 0.3,
                "nesterov": True,
            },
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "delta": 3.0,
                "wd_ratio": 0.3,
                "nesterov": False,
            },
        ],
        {"eps": 0.0},
    ),
    "adamw": Proof(
        adamw, [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.001, "weight_decay": 0.2}], {"eps": 0.0}
    ),
    "adamw-schedulefree": Proof(
        adamw_schedulefree,
        [
            {
                "lr": 0.1,
                "betas": (0.8, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "warmup_steps": 5,
                "r": 0.5,
                "weight_lr_power": 1.5,
            }
        ],
        {"eps": 0.0},
        {LR_0_MIDWAY: "y still moves between z and their average"},
    ),
    "adan": Proof(
        adan,
        [
            {
                "lr": 0.05,
                "betas": (0.9, 0.8, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "no_prox": False,
            },
            {
                "lr": 0.05,
                "betas": (0.7, 0.6, 0.9),
                "eps": 0.001,
                "weight_decay": 0.3,
                "no_prox": True,
            },
        ],
        {"eps": 0.0},
    ),
    "lamb": Proof(
        lamb,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "debias": True,
                "clamp_value": None,
            },
            {
                "lr": 0.1,
                "betas": (0.7, 0.9),
                "eps": 0.01,
                "weight_decay": 0.1,
                "debias": False,
                "clamp_value": 1.5,
            },
        ],
        {"eps": 0.0},
    ),
    "lars": Proof(
        lars,
        [
            {
                "lr": 0.5,
                "momentum": 0.8,
                "trust_coefficient": 0.05,
                "eps": 0.001,
                "weight_decay": 0.2,
            },
            {
                "lr": 1.0,
                "momentum": 0.0,
                "trust_coefficient": 0.1,
                "eps": 0.01,
                "weight_decay": 0.1,
            },
        ],
        {"eps": 0.0, "weight_decay": 0.0},
        {LR_0_MIDWAY: "its lr is inside the momentum, which carries on from earlier steps"},
    ),
    "lion": Proof(lion, [{"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3}], {}),
    "nadam": Proof(
        nadam,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.95),
                "eps": 0.01,
                "weight_decay": 0.1,
                "momentum_decay": 0.3,
            }
        ],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "novograd": Proof(
        novograd,
        [
            {
                "lr": 0.1,
                "betas": (0.8, 0.9),
                "eps": 0.01,
                "weight_decay": 0.1,
                "grad_averaging": False,
            },
            {
                "lr": 0.3,
                "betas": (0.7, 0.95),
                "eps": 0.001,
                "weight_decay": 0.2,
                "grad_averaging": True,
            },
        ],
        {"eps": 0.0},
    ),
    "radam": Proof(
        radam,
        [
            {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.1},
            {"lr": 0.02, "betas": (0.8, 0.6), "eps": 0.01, "weight_decay": 0.1},
        ],
        "takes plain momentum steps before its rectification is defined",
    ),
    "rmsprop": Proof(
        rmsprop,
        [
            {
                "lr": 0.02,
                "alpha": 0.9,
                "eps": 0.001,
                "momentum": 0.6,
                "centered": True,
                "weight_decay": 0.1,
            },
            {
                "lr": 0.05,
                "alpha": 0.8,
                "eps": 0.001,
                "momentum": 0.0,
                "centered": False,
                "weight_decay": 0.2,
            },
        ],
        {"eps": 0.0, "weight_decay": 0.0},
    ),
    "sgd": Proof(
        sgd,
        [
            {"lr": 0.2, "momentum": 0.8, "dampening": 0.3, "nesterov": False, "weight_decay": 0.1},
            {"lr": 0.2, "momentum": 0.8, "dampening": 0.0, "nesterov": True, "weight_decay": 0.1},
            {"lr": 0.2, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.1},
        ],
        "steps are proportional to the gradient",
    ),
    "sgd-schedulefree": Proof(
        sgd_schedulefree,
        [
            {
                "lr": 0.3,
                "momentum": 0.8,
                "weight_decay": 0.2,
                "warmup_steps": 5,
                "r": 0.5,
                "weight_lr_power": 1.5,
            }
        ],
        "steps are proportional to the gradient",
        {LR_0_MIDWAY: "y still moves between z and their average"},
    ),
    "sgdp": Proof(
        sgdp,
        [
            {
                "lr": 0.05,
                "momentum": 0.7,
                "dampening": 0.2,
                "nesterov": True,
                "weight_decay": 0.1,
                "eps": 0.001,
                "delta": 0.9,
                "wd_ratio": 0.3,
            },
            {
                "lr": 0.1,
                "momentum": 0.0,
                "dampening": 0.0,
                "nesterov": False,
                "weight_decay": 0.1,
                "eps": 0.001,
                "delta": 3.0,
                "wd_ratio": 0.3,
            },
        ],
        "steps are proportional to the gradient",
    ),
    "sophia": Proof(
        sophia,
        [{"lr": 0.05, "betas": (0.8, 0.9), "rho": 0.3, "eps": 0.001, "weight_decay": 0.3, "k": 4}],
        "divides a gradient by the square of one",
    ),
    "yogi": Proof(
        yogi,
        [
            {
                "lr": 0.05,
                "betas": (0.8, 0.9),
                "eps": 0.01,
                "initial_accumulator_value": 0.1,
                "weight_decay": 0.1,
            }
        ],
        "the signs in its second moment compare with an initial value",
    ),
}
