"""Rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "shampoo", "Shampoo", "Gupta et al., Shampoo: Preconditioned Stochastic Tensor"
        " Optimization", 2018, ADAPTIVE, "shampoo:Shampoo", url="https://arxiv.org/abs/1802.09568",
        category_is_ours=True, aliases=("distributed-shampoo",),
        notes="Grafted on Adam's step length. AdamW steps embeddings, head and vectors.",
    ),
    OptimizerInfo(
        "soap", "SOAP", "Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam", 2024,
        ADAPTIVE, "soap:Soap", url="https://arxiv.org/abs/2409.11321", category_is_ours=True,
        notes="The first step only initialises. AdamW steps embeddings, head and vectors.",
    ),
)  # fmt: skip
