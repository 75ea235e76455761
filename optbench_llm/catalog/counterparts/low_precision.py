"""Others' implementations of rules for parameters in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping

from optbench_llm.catalog.counterparts.counterpart import ADAM, Comparison, Counterpart, named

COMPARISONS: Mapping[str, Comparison] = {
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
}
