"""Others' implementations of rules that see whole matrices and know what they are."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import ADAM, Comparison, Counterpart, P, named

BFLOAT16 = (
    "both run the Newton-Schulz steps in bfloat16, and ours multiplies in another order; in fp32"
    " they agree within 2e-6"
)

COMPARISONS: Mapping[str, Comparison] = {
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
}
