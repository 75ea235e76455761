"""Others' implementations of rows whose further gradients a program makes."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import (
    ADAM,
    MOMENTUM,
    Comparison,
    Counterpart,
    P,
)

OWN_PRODUCTS = "it makes its products of the Hessian itself, from gradients that keep their graph"

COMPARISONS: Mapping[str, Comparison] = {
    "sam": Comparison(
        {**MOMENTUM, "dampening": 0.0, "nesterov": False, "rho": 0.1, "adaptive": True},
        (Counterpart(P + "SAM", unfit="it takes its second gradient from a closure"),),
    ),
    "sophia-h": Comparison(
        {
            "lr": 0.05,
            "betas": (0.8, 0.9),
            "rho": 0.3,
            "eps": 1e-3,
            "weight_decay": 0.3,
            "k": 4,
            "hvp": "autograd",
        },
        (Counterpart(P + "SophiaH", unfit=OWN_PRODUCTS),),
    ),
    "adahessian": Comparison(
        {**ADAM, "hessian_power": 0.6, "spatial_average": True, "k": 3, "hvp": "autograd"},
        (Counterpart(P + "AdaHessian", unfit=OWN_PRODUCTS),),
    ),
    "svrg": Comparison(
        {
            **ADAM,
            "coefficient": 0.5,
            "coefficient_schedule": "constant",
            "snapshot_period": 7,
            "snapshot_batches": 3,
        }
    ),
}
