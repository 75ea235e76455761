"""Others' implementations of rules that precondition both sides of a matrix."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import Comparison, Counterpart, P, named

COMPARISONS: Mapping[str, Comparison] = {
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
}
