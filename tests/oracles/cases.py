"""The settings under which each rule meets its oracle: none at its default, weight decay on."""

from __future__ import annotations

from typing import Any

#: The first case of each is the one that is compiled as well. The lr moves parameters far enough
#: that fp32's rounding of the parameter itself stays below the deviation looked for.
CASES: dict[str, list[dict[str, Any]]] = {
    "adabelief": [
        {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.1, "rectify": True},
        {"lr": 0.05, "betas": (0.85, 0.95), "eps": 1e-2, "weight_decay": 0.2, "rectify": False},
    ],
    "adabound": [
        {
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "final_lr": 0.2,
            "gamma": 0.05,
            "eps": 1e-2,
            "weight_decay": 0.1,
        },
        {
            "lr": 0.3,
            "betas": (0.7, 0.9),
            "final_lr": 0.02,
            "gamma": 0.5,
            "eps": 1e-2,
            "weight_decay": 0.2,
        },
    ],
    "adadelta": [
        {"lr": 5.0, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.1},
        {"lr": 1.5, "rho": 0.5, "eps": 1e-2, "weight_decay": 0.3},
    ],
    "adafactor": [
        {
            "lr": 0.2,
            "eps": (1e-3, 1e-2),
            "clip_threshold": 0.7,
            "decay_rate": 0.6,
            "beta1": 0.8,
            "weight_decay": 0.1,
            "scale_parameter": True,
            "relative_step": True,
        },
        {
            "lr": 0.6,
            "eps": (1e-2, 0.7),
            "clip_threshold": 2.0,
            "decay_rate": 0.9,
            "beta1": None,
            "weight_decay": 0.05,
            "scale_parameter": True,
            "relative_step": True,
        },
        {
            "lr": 0.05,
            "eps": (1e-30, 1e-3),
            "clip_threshold": 1.0,
            "decay_rate": 0.8,
            "beta1": None,
            "weight_decay": 0.1,
            "scale_parameter": False,
            "relative_step": False,
        },
    ],
    "adagrad": [
        {
            "lr": 0.2,
            "lr_decay": 0.05,
            "initial_accumulator_value": 0.1,
            "eps": 1e-2,
            "weight_decay": 0.1,
        },
    ],
    "adam": [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}],
    "adamax": [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}],
    "adamp": [
        {
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.2,
            "delta": 0.9,
            "wd_ratio": 0.3,
            "nesterov": True,
        },
        {
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.2,
            "delta": 3.0,
            "wd_ratio": 0.3,
            "nesterov": False,
        },
    ],
    "adamw": [{"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}],
    "adamw-schedulefree": [
        {
            "lr": 0.1,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.2,
            "warmup_steps": 5,
            "r": 0.5,
            "weight_lr_power": 1.5,
        },
    ],
    "adan": [
        {"lr": 0.05, "betas": (0.9, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2, "no_prox": False},
        {"lr": 0.05, "betas": (0.7, 0.6, 0.9), "eps": 1e-3, "weight_decay": 0.3, "no_prox": True},
    ],
    "lamb": [
        {
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.2,
            "debias": True,
            "clamp_value": None,
        },
        {
            "lr": 0.1,
            "betas": (0.7, 0.9),
            "eps": 1e-2,
            "weight_decay": 0.1,
            "debias": False,
            "clamp_value": 1.5,
        },
    ],
    "lars": [
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.05, "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 1.0, "momentum": 0.0, "trust_coefficient": 0.1, "eps": 1e-2, "weight_decay": 0.1},
    ],
    "lion": [{"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3}],
    "nadam": [
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.3},
    ],
    "novograd": [
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.1, "grad_averaging": False},
        {"lr": 0.3, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "grad_averaging": True},
    ],
    "radam": [
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1},
        {"lr": 0.02, "betas": (0.8, 0.6), "eps": 1e-2, "weight_decay": 0.1},
    ],
    "rmsprop": [
        {
            "lr": 0.02,
            "alpha": 0.9,
            "eps": 1e-3,
            "momentum": 0.6,
            "centered": True,
            "weight_decay": 0.1,
        },
        {
            "lr": 0.05,
            "alpha": 0.8,
            "eps": 1e-3,
            "momentum": 0.0,
            "centered": False,
            "weight_decay": 0.2,
        },
    ],
    "sgd": [
        {"lr": 0.2, "momentum": 0.8, "dampening": 0.3, "nesterov": False, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.8, "dampening": 0.0, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.1},
    ],
    "sgd-schedulefree": [
        {
            "lr": 0.3,
            "momentum": 0.8,
            "weight_decay": 0.2,
            "warmup_steps": 5,
            "r": 0.5,
            "weight_lr_power": 1.5,
        },
    ],
    "sgdp": [
        {
            "lr": 0.05,
            "momentum": 0.7,
            "dampening": 0.2,
            "nesterov": True,
            "weight_decay": 0.1,
            "eps": 1e-3,
            "delta": 0.9,
            "wd_ratio": 0.3,
        },
        {
            "lr": 0.1,
            "momentum": 0.0,
            "dampening": 0.0,
            "nesterov": False,
            "weight_decay": 0.1,
            "eps": 1e-3,
            "delta": 3.0,
            "wd_ratio": 0.3,
        },
    ],
    "sophia": [
        {"lr": 0.05, "betas": (0.8, 0.9), "rho": 0.3, "eps": 1e-3, "weight_decay": 0.3, "k": 4}
    ],
    "yogi": [
        {
            "lr": 0.05,
            "betas": (0.8, 0.9),
            "eps": 1e-2,
            "initial_accumulator_value": 0.1,
            "weight_decay": 0.1,
        },
    ],
}
