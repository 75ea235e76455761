"""Rules that came after the first catalog."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, MOMENTUM, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "adopt", "ADOPT", "Taniguchi et al., ADOPT: Modified Adam Can Converge with Any beta2 with"
        " the Optimal Rate", 2024, ADAPTIVE, "adopt:Adopt",
        url="https://arxiv.org/abs/2411.02853", category_is_ours=True,
        notes="The first step only initialises. In place of AdamW take decouple=True.",
    ),
    OptimizerInfo(
        "ademamix", "AdEMAMix", "Pagliardini et al., The AdEMAMix Optimizer: Better, Faster, Older",
        2024, ADAPTIVE, "ademamix:AdEMAMix", url="https://arxiv.org/abs/2409.03137",
        category_is_ours=True,
        notes="For long runs the authors warm alpha and beta3 up over all steps: alpha_warmup and"
        " beta3_warmup.",
    ),
    OptimizerInfo(
        "mars", "MARS", "Yuan et al., MARS: Unleashing the Power of Variance Reduction for Training"
        " Large Models", 2024, ADAPTIVE, "mars:Mars", url="https://arxiv.org/abs/2411.10438",
        category_is_ours=True, aliases=("mars-adamw",),
        notes="MARS-AdamW, in the approximate form that needs one gradient a step.",
    ),
    OptimizerInfo(
        "signum", "Signum", "Bernstein et al., signSGD: Compressed Optimisation for Non-Convex"
        " Problems", 2018, MOMENTUM, "signum:Signum", url="https://arxiv.org/abs/1802.04434",
        category_is_ours=True, notes="signSGD where momentum is 0.",
    ),
    OptimizerInfo(
        "laprop", "LaProp", "Ziyin et al., LaProp: Separating Momentum and Adaptivity in Adam",
        2020, ADAPTIVE, "laprop:LaProp", url="https://arxiv.org/abs/2002.04839",
        category_is_ours=True,
    ),
    OptimizerInfo(
        "radam-schedulefree", "RAdamScheduleFree", "Defazio et al., The Road Less Scheduled", 2024,
        ADAPTIVE, "radam_schedulefree:RAdamScheduleFree", url="https://arxiv.org/abs/2405.15682",
        category_is_ours=True, schedule="constant",
        notes="RAdam's rectification takes the place of a warm-up.",
    ),
    OptimizerInfo(
        "cautious-adamw", "Cautious AdamW", "Liang et al., Cautious Optimizers: Improving Training"
        " with One Line of Code", 2024, ADAPTIVE, "cautious:CautiousAdamW",
        url="https://arxiv.org/abs/2411.16085", category_is_ours=True,
        aliases=("c-adamw",),
    ),
    OptimizerInfo(
        "cautious-lion", "Cautious Lion", "Liang et al., Cautious Optimizers: Improving Training"
        " with One Line of Code", 2024, MOMENTUM, "cautious:CautiousLion",
        url="https://arxiv.org/abs/2411.16085", category_is_ours=True,
        aliases=("c-lion",),
    ),
    OptimizerInfo(
        "stableadamw", "StableAdamW", "Wortsman et al., Stable and Low-precision Training for"
        " Large-scale Vision-Language Models", 2023, ADAPTIVE, "stableadamw:StableAdamW",
        url="https://arxiv.org/abs/2304.13013", category_is_ours=True,
    ),
    OptimizerInfo(
        "grams", "Grams", "Cao et al., Grams: Gradient Descent with Adaptive Momentum Scaling",
        2024, ADAPTIVE, "grams:Grams", url="https://arxiv.org/abs/2412.17107",
        category_is_ours=True,
    ),
)  # fmt: skip
