"""Others' implementations of the published rows."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    COUPLED,
    DECOUPLED,
    MOMENTUM,
    Comparison,
    Counterpart,
    P,
    named,
)

FUSED = named(fused=True)

COMPARISONS: Mapping[str, Comparison] = {
    "rmsprop": Comparison(
        {
            "lr": 0.02,
            "alpha": 0.9,
            "eps": 1e-2,
            "momentum": 0.6,
            "centered": True,
            "weight_decay": 0.1,
        },
        (
            Counterpart("torch:RMSprop"),
            Counterpart(
                "bnb:RMSprop32bit",
                at={"centered": False, "momentum": 0.0},
                known="theirs ignores momentum and refuses centered",
            ),
        ),
    ),
    "lion": Comparison(
        {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3},
        (
            Counterpart(P + "Lion", DECOUPLED),
            Counterpart("bnb:Lion32bit"),
        ),
    ),
    "adam": Comparison(
        ADAM,
        (
            Counterpart("torch:Adam"),
            Counterpart("torch:Adam", FUSED, note="fused"),
            Counterpart(
                "bnb:Adam32bit",
                at={"weight_decay": 0.0},
                known="theirs decays the parameter as AdamW does, ours adds an L2 term",
            ),
        ),
    ),
    "adamp": Comparison(
        {**ADAM, "delta": 0.9, "wd_ratio": 0.3, "nesterov": True},
        (
            Counterpart(
                P + "AdamP",
                DECOUPLED,
                at={"eps": 1e-10},
                known="theirs adds eps to the uncorrected root",
            ),
        ),
    ),
    "adamw": Comparison(
        ADAM,
        (
            Counterpart("torch:AdamW"),
            Counterpart("torch:AdamW", FUSED, note="fused"),
            Counterpart("bnb:AdamW32bit"),
        ),
    ),
    "adafactor": Comparison(
        {
            "lr": 0.2,
            "eps": (1e-30, 1e-2),
            "clip_threshold": 1.1,
            "decay_rate": 0.6,
            "beta1": None,
            "weight_decay": 0.1,
            "scale_parameter": True,
            "relative_step": True,
        },
        (
            Counterpart(
                "torch:Adafactor",
                lambda h: {
                    "lr": h["lr"],
                    "beta2_decay": -h["decay_rate"],
                    "d": h["clip_threshold"],
                    "weight_decay": h["weight_decay"],
                    "eps": (h["eps"][0] ** 0.5, h["eps"][1]),
                },
            ),
            Counterpart(
                "transformers.optimization:Adafactor",
                lambda h: {**h, "decay_rate": -h["decay_rate"]},
                at={"scale_parameter": False, "relative_step": False, "lr": 0.05, "beta1": 0.8},
            ),
            Counterpart(
                P + "AdaFactor",
                lambda h: {
                    "lr": h["lr"],
                    "betas": (h["beta1"], 0.999),
                    "eps1": h["eps"][0],
                    "eps2": h["eps"][1],
                    "clip_threshold": h["clip_threshold"],
                    "decay_rate": -h["decay_rate"],
                    "weight_decay": h["weight_decay"],
                    "scale_parameter": h["scale_parameter"],
                    "relative_step": h["relative_step"],
                },
                at={"scale_parameter": False, "relative_step": False, "lr": 0.05},
            ),
        ),
    ),
    "adabound": Comparison(
        {**ADAM, "final_lr": 0.2, "gamma": 0.05},
        (Counterpart(P + "AdaBound", COUPLED),),
    ),
    "adamw-schedulefree": Comparison(
        {
            **ADAM,
            "lr": 0.1,
            "warmup_steps": 5,
            "r": 0.5,
            "weight_lr_power": 1.5,
        },
        (
            Counterpart("schedulefree:AdamWScheduleFree"),
            Counterpart(P + "ScheduleFreeAdamW"),
        ),
    ),
    "adan": Comparison(
        {**ADAM, "betas": (0.9, 0.8, 0.95), "no_prox": False},
        (Counterpart(P + "Adan", named(drop=("no_prox",), weight_decouple=False)),),
    ),
    "nadam": Comparison(
        {**ADAM, "momentum_decay": 0.3},
        (Counterpart("torch:NAdam"),),
    ),
    "adabelief": Comparison(
        {**ADAM, "rectify": True},
        (Counterpart(P + "AdaBelief", DECOUPLED),),
    ),
    "adamax": Comparison(
        ADAM,
        (
            Counterpart("torch:Adamax"),
            Counterpart(P + "AdaMax", COUPLED),
        ),
    ),
    "radam": Comparison(
        ADAM,
        (
            Counterpart("torch:RAdam"),
            Counterpart(
                P + "RAdam",
                named(weight_decouple=False, degenerated_to_sgd=True),
                at={"weight_decay": 0.0},
                known="theirs drops coupled weight decay",
            ),
        ),
    ),
    "adadelta": Comparison(
        {"lr": 3.0, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.1},
        (
            Counterpart("torch:Adadelta"),
            Counterpart(P + "AdaDelta", COUPLED),
        ),
    ),
    "adagrad": Comparison(
        {
            "lr": 0.2,
            "lr_decay": 0.05,
            "initial_accumulator_value": 0.1,
            "eps": 1e-2,
            "weight_decay": 0.1,
        },
        (
            Counterpart("torch:Adagrad"),
            Counterpart("torch:Adagrad", FUSED, note="fused"),
            Counterpart(
                "bnb:Adagrad32bit",
                at={"initial_accumulator_value": 0.0, "lr_decay": 0.0},
                known="theirs refuses lr_decay and initial_accumulator_value",
            ),
        ),
    ),
    "yogi": Comparison(
        {**ADAM, "initial_accumulator_value": 0.1},
        (
            Counterpart(
                P + "Yogi",
                named({"initial_accumulator_value": "initial_accumulator"}, weight_decouple=False),
                at={"initial_accumulator_value": 0.0},
                known="theirs starts the first moment at the accumulator's value, too",
            ),
        ),
    ),
    "novograd": Comparison(
        {**ADAM, "lr": 0.1, "grad_averaging": True},
        (
            Counterpart(
                P + "NovoGrad",
                COUPLED,
                at={"grad_averaging": False},
                known="theirs does not average the first gradient",
            ),
        ),
    ),
    "sophia": Comparison(
        {"lr": 0.05, "betas": (0.8, 0.9), "rho": 0.3, "eps": 1e-3, "weight_decay": 0.3, "k": 4},
        (
            Counterpart(
                P + "SophiaH",
                unfit="it estimates the Hessian by Hutchinson's products, ours by sampled labels",
            ),
        ),
    ),
    "lamb": Comparison(
        {**ADAM, "debias": False, "clamp_value": None},
        (
            Counterpart(
                P + "Lamb",
                named(
                    drop=("debias", "clamp_value"),
                    weight_decouple=False,
                    adam_debias=True,
                    max_grad_norm=0.0,
                ),
                at={"eps": 1e-8, "clamp_value": 10.0},
                known="theirs always clamps the weight's norm at 10, corrects the first moment's"
                " bias alone unless told adam_debias, and adds eps to the update's norm as well",
            ),
            Counterpart(
                "bnb:LAMB32bit",
                lambda h: {
                    "bias_correction": h["debias"],
                    **{k: h[k] for k in ("lr", "betas", "eps", "weight_decay")},
                },
                at={"debias": True},
                known="theirs has no trust ratio: AdamW whose update is cut off at the norm of the"
                " weight",
                agrees=False,
            ),
        ),
    ),
    "lars": Comparison(
        {**MOMENTUM, "lr": 0.5, "trust_coefficient": 0.05, "eps": 0.0},
        (
            Counterpart(
                P + "LARS",
                named(drop=("eps",)),
                matrices=True,
                constant_lr=True,
                known="theirs multiplies by lr after the momentum, ours before, as the paper does:"
                " they part when lr changes; theirs steps vectors without a trust ratio, and has no"
                " eps",
            ),
            Counterpart(
                "bnb:LARS32bit",
                named({"trust_coefficient": "max_unorm"}, drop=("eps",)),
                known="theirs has no trust ratio: SGD with momentum whose update is cut off at"
                " max_unorm times the norm of the weight",
                agrees=False,
            ),
        ),
    ),
    "sgd-schedulefree": Comparison(
        {**MOMENTUM, "lr": 0.3, "warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5},
        (
            Counterpart("schedulefree:SGDScheduleFree"),
            Counterpart(P + "ScheduleFreeSGD"),
        ),
    ),
    "sgdp": Comparison(
        {
            **MOMENTUM,
            "dampening": 0.2,
            "nesterov": True,
            "eps": 1e-3,
            "delta": 0.9,
            "wd_ratio": 0.3,
        },
        (Counterpart(P + "SGDP", DECOUPLED),),
    ),
    "sgd": Comparison(
        {**MOMENTUM, "dampening": 0.3, "nesterov": False},
        (
            Counterpart("torch:SGD"),
            Counterpart("torch:SGD", FUSED, note="fused"),
            Counterpart("bnb:SGD32bit", at={"dampening": 0.0}, known="theirs ignores dampening"),
        ),
    ),
}
