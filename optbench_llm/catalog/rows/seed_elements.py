"""The rest of the first catalog: rules that see each element by itself."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, ESTIMATED, MOMENTUM, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "rprop", "Rprop", "Riedmiller & Braun, A Direct Adaptive Method for Faster Backpropagation"
        " Learning", 1993, ESTIMATED, "rprop:Rprop", category_is_ours=True, schedule="constant",
        notes="The lr is the first step size alone. Made for full batches: with small ones the"
        " signs flip by chance.",
    ),
    OptimizerInfo(
        "qhm", "QHM", "Ma & Yarats, Quasi-hyperbolic Momentum and Adam for Deep Learning", 2019,
        MOMENTUM, "qhm:QHM", url="https://arxiv.org/abs/1810.06801", category_is_ours=True,
    ),
    OptimizerInfo(
        "qhadam", "QHAdam", "Ma & Yarats, Quasi-hyperbolic Momentum and Adam for Deep Learning",
        2019, ADAPTIVE, "qhadam:QHAdam", url="https://arxiv.org/abs/1810.06801",
        category_is_ours=True,
    ),
    OptimizerInfo(
        "aggmo", "AggMo", "Lucas et al., Aggregated Momentum: Stability Through Passive Damping",
        2019, MOMENTUM, "aggmo:AggMo", url="https://arxiv.org/abs/1804.00325",
        category_is_ours=True, aliases=("aggregated-momentum",),
    ),
    OptimizerInfo(
        "pid", "PID", "An et al., A PID Controller Approach for Stochastic Optimization of Deep"
        " Networks", 2018, MOMENTUM, "pid:PID", category_is_ours=True, aliases=("PIDOptimizer",),
    ),
    OptimizerInfo(
        "accsgd", "AccSGD", "Kidambi et al., On the Insufficiency of Existing Momentum Schemes for"
        " Stochastic Optimization", 2018, MOMENTUM, "accsgd:AccSGD",
        url="https://arxiv.org/abs/1803.05591", category_is_ours=True,
    ),
    OptimizerInfo(
        "adamod", "AdaMod", "Ding et al., An Adaptive and Momental Bound Method for Stochastic"
        " Learning", 2019, ESTIMATED, "adamod:AdaMod", url="https://arxiv.org/abs/1910.12249",
        category_is_ours=True,
    ),
    OptimizerInfo(
        "diffgrad", "DiffGrad", "Dubey et al., diffGrad: An Optimization Method for Convolutional"
        " Neural Networks", 2019, ADAPTIVE, "diffgrad:DiffGrad",
        url="https://arxiv.org/abs/1909.11015", category_is_ours=True,
    ),
    OptimizerInfo(
        "madgrad", "MADGRAD", "Defazio & Jelassi, Adaptivity without Compromise: A Momentumized,"
        " Adaptive, Dual Averaged Gradient Method", 2021, ADAPTIVE, "madgrad:MADGRAD",
        url="https://arxiv.org/abs/2101.11075", category_is_ours=True,
    ),
)  # fmt: skip
