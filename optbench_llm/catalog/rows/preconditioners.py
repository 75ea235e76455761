"""Rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "soap", "SOAP", "Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam", 2024,
        ADAPTIVE, "soap:Soap", url="https://arxiv.org/abs/2409.11321", category_is_ours=True,
        notes="The first step only initialises. AdamW steps embeddings, head and vectors.",
    ),
)  # fmt: skip
