"""Other people's implementations of the catalog's rows, and how each comes to compute the same.

Imports nothing but itself; versions that the statements about others were read from and measured
with: torch 2.13, pytorch_optimizer 4.1, schedulefree 1.4, prodigyopt 1.1, bitsandbytes 0.50,
transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Whose versions an audit states.
PACKAGES = (
    "torch",
    "pytorch_optimizer",
    "schedulefree",
    "prodigyopt",
    "bitsandbytes",
    "transformers",
)
Settings = Mapping[str, Any]
Arguments = Callable[[Settings], dict[str, Any]]


def same(settings: Settings) -> dict[str, Any]:
    """The same names for the same things."""
    return dict(settings)


def named(
    rename: Mapping[str, str] | None = None, drop: tuple[str, ...] = (), **fixed: Any
) -> Arguments:
    """Arguments under other names, without those in ``drop``, and with those in ``fixed``."""
    names = rename or {}

    def arguments(settings: Settings) -> dict[str, Any]:
        kept = {names.get(k, k): value for k, value in settings.items() if k not in drop}
        return {**kept, **fixed}

    return arguments


@dataclass(frozen=True)
class Counterpart:
    """One other implementation.

    ``arguments`` turns our settings into its own. ``at`` are settings of ours under which alone it
    computes the same, as ``known`` says; ``matrices`` leaves vectors out of the comparison and
    ``constant_lr`` changes of the learning rate, for the same reason. ``agrees`` False: it computes
    something else, and ``known`` says what. ``unfit`` says why it cannot be stepped beside ours.
    ``group`` goes into its parameter group, ``base`` is the spec of the optimizer that it wraps,
    ``takes_model`` that its constructor wants a module.
    """

    spec: str
    arguments: Arguments = same
    note: str = ""
    known: str = ""
    agrees: bool = True
    at: Settings = field(default_factory=dict)
    unfit: str | None = None
    group: Settings = field(default_factory=dict)
    base: str | None = None
    base_arguments: Arguments = same
    takes_model: bool = False
    matrices: bool = False
    constant_lr: bool = False

    @property
    def label(self) -> str:
        """The spec, and what tells two of the same class apart."""
        return f"{self.spec} {self.note}".rstrip()


@dataclass(frozen=True)
class Comparison:
    """Settings of ours of which each is felt within a few steps, and the others."""

    settings: Settings
    others: tuple[Counterpart, ...] = ()
    #: What is set otherwise where only the time counts.
    timed: Settings = field(default_factory=dict)


ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.2}
MOMENTUM = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
BFLOAT16 = (
    "theirs runs the Newton-Schulz steps in bfloat16, ours in fp32; in fp32 they agree within 2e-6"
)
FUSED = named(fused=True)
COUPLED = named(weight_decouple=False)
DECOUPLED = named(weight_decouple=True)

P = "pytorch_optimizer:"
WRAPPER = ("schedulefree_momentum", "schedulefree_r", "schedulefree_weight_lr_power")


def wrapper(settings: Settings) -> dict[str, Any]:
    """Arguments of a schedule-free wrapper, which are not its base's."""
    return {name.removeprefix("schedulefree_"): settings[name] for name in WRAPPER}


COMPARISONS: Mapping[str, Comparison] = {
    "sgd": Comparison(
        {**MOMENTUM, "dampening": 0.3, "nesterov": False},
        (
            Counterpart("torch:SGD"),
            Counterpart("torch:SGD", FUSED, note="fused"),
            Counterpart("bnb:SGD32bit", at={"dampening": 0.0}, known="theirs ignores dampening"),
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
    "adamw": Comparison(
        ADAM,
        (
            Counterpart("torch:AdamW"),
            Counterpart("torch:AdamW", FUSED, note="fused"),
            Counterpart("bnb:AdamW32bit"),
        ),
    ),
    "adamax": Comparison(
        ADAM,
        (
            Counterpart("torch:Adamax"),
            Counterpart(P + "AdaMax", COUPLED),
        ),
    ),
    "nadam": Comparison(
        {**ADAM, "momentum_decay": 0.3},
        (Counterpart("torch:NAdam"),),
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
    "adadelta": Comparison(
        {"lr": 3.0, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.1},
        (
            Counterpart("torch:Adadelta"),
            Counterpart(P + "AdaDelta", COUPLED),
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
    "adabelief": Comparison(
        {**ADAM, "rectify": True},
        (Counterpart(P + "AdaBelief", DECOUPLED),),
    ),
    "adabound": Comparison(
        {**ADAM, "final_lr": 0.2, "gamma": 0.05},
        (Counterpart(P + "AdaBound", COUPLED),),
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
    "adan": Comparison(
        {**ADAM, "betas": (0.9, 0.8, 0.95), "no_prox": False},
        (Counterpart(P + "Adan", named(drop=("no_prox",), weight_decouple=False)),),
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
    "lion": Comparison(
        {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3},
        (
            Counterpart(P + "Lion", DECOUPLED),
            Counterpart("bnb:Lion32bit"),
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
    "sophia": Comparison(
        {"lr": 0.05, "betas": (0.8, 0.9), "rho": 0.3, "eps": 1e-3, "weight_decay": 0.3, "k": 4},
        (
            Counterpart(
                P + "SophiaH",
                unfit="it estimates the Hessian by Hutchinson's products, ours by sampled labels",
            ),
        ),
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
    "sgd-schedulefree": Comparison(
        {**MOMENTUM, "lr": 0.3, "warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5},
        (
            Counterpart("schedulefree:SGDScheduleFree"),
            Counterpart(P + "ScheduleFreeSGD"),
        ),
    ),
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
            Counterpart("prodigyopt:Prodigy"),
            Counterpart(
                P + "Prodigy",
                named({"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}),
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
    "adam-mini": Comparison(
        ADAM,
        (
            Counterpart(
                P + "AdamMini",
                takes_model=True,
                known="theirs takes a weight whose name it does not know for one block, ours has a"
                " block a row; on matrices of one row they agree within 1e-6",
                agrees=False,
            ),
        ),
    ),
    "muon": Comparison(
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
        (
            Counterpart("torch:Muon", named(adjust_lr_fn="original"), known=BFLOAT16, agrees=False),
            Counterpart(P + "Muon", group={"use_muon": True}, known=BFLOAT16, agrees=False),
        ),
    ),
    "scion": Comparison(
        {"lr": 0.02, "alpha": 0.2, "radius": 2.0, "weight_decay": 0.9},
        (
            Counterpart(
                P + "SCION",
                named({"alpha": "momentum", "radius": "scale"}),
                known=BFLOAT16,
                agrees=False,
            ),
        ),
    ),
    "soap": Comparison(
        {
            "lr": 0.05,
            "betas": (0.8, 0.9),
            "eps": 1e-2,
            "weight_decay": 0.2,
            "precondition_frequency": 3,
            # A basis for the shorter side alone: the longer one's moment starts with a null space,
            # any basis of which would do.
            "max_precond_dim": 30,
        },
        (Counterpart(P + "SOAP", named({"max_precond_dim": "max_precondition_dim"})),),
        timed={"max_precond_dim": 10000},
    ),
    "shampoo": Comparison(
        {
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-2,
            "matrix_eps": 1e-2,
            "weight_decay": 0.2,
            "precondition_frequency": 3,
            "max_precond_dim": 30,
        },
        (
            Counterpart(
                P + "Shampoo",
                lambda h: {
                    "lr": h["lr"],
                    "momentum": h["betas"][0],
                    "weight_decay": h["weight_decay"],
                    "weight_decouple": True,
                    "preconditioning_compute_steps": h["precondition_frequency"],
                    "matrix_eps": h["matrix_eps"],
                },
                known="theirs is the first paper's: sums of moments, no length grafted from Adam,"
                " and a momentum that is preconditioned again at every step",
                agrees=False,
            ),
        ),
        timed={"max_precond_dim": 8192},
    ),
    "psgd-kron": Comparison(
        {
            "lr": 0.05,
            "momentum": 0.8,
            "weight_decay": 0.2,
            "precond_lr": 0.1,
            "precond_init_scale": 1.0,
            "preconditioner_update_probability": 1.0,
            "max_precond_dim": 8192,
        },
        (
            Counterpart(
                P + "Kron",
                lambda h: {
                    **{k: h[k] for k in ("lr", "momentum", "weight_decay")},
                    "pre_conditioner_update_probability": h["preconditioner_update_probability"],
                    "max_size_triangular": h["max_precond_dim"],
                },
                known="theirs draws its probes at random, ours hashes them of step and position;"
                " theirs leaves out the damping; with both alike they agree within 1e-6",
                agrees=False,
            ),
        ),
    ),
    "adamw-bf16": Comparison(
        {**ADAM, "rounding": "kahan"},
        (
            Counterpart(
                "torch:AdamW",
                named(drop=("rounding",)),
                known="compared on fp32 parameters, which need no rounding",
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
