"""The rows that the published table names, in its order, and its 8-bit Lion."""

from __future__ import annotations

from optbench_llm.catalog.info import (
    ADAPTIVE,
    ADAPTIVE_PLAIN,
    ESTIMATED,
    MOMENTUM,
    OptimizerInfo,
)

ROWS = (
    OptimizerInfo(
        "rmsprop", "RMSprop", "Hinton, Neural Networks for Machine Learning, lecture 6.5", 2012,
        ADAPTIVE_PLAIN, "rmsprop:RMSprop",
        published_name="RMSprop", published_loss=2.4016,
    ),
    OptimizerInfo(
        "lion", "Lion", "Chen et al., Symbolic Discovery of Optimization Algorithms", 2023,
        MOMENTUM, "lion:Lion", url="https://arxiv.org/abs/2302.06675",
        published_name="LION-32bit", published_loss=2.4041, aliases=("LION-32bit",),
        notes="The published run took betas (0.9, 0.999).",
    ),
    OptimizerInfo(
        "adam", "Adam", "Kingma & Ba, Adam: A Method for Stochastic Optimization", 2015,
        ADAPTIVE, "adam:Adam", url="https://arxiv.org/abs/1412.6980",
        published_name="Adam", published_loss=2.4292,
    ),
    OptimizerInfo(
        "adamp", "AdamP", "Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers",
        2021, ADAPTIVE, "adamp:AdamP", url="https://arxiv.org/abs/2006.08217",
        published_name="AdamP", published_loss=2.4295,
        notes="The published run had flat parameters, which are never projected: delta=1e-30"
        " does the same.",
    ),
    OptimizerInfo(
        "adamw", "AdamW", "Loshchilov & Hutter, Decoupled Weight Decay Regularization", 2019,
        ADAPTIVE, "adam:AdamW", url="https://arxiv.org/abs/1711.05101",
        published_name="AdamW", published_loss=2.4469,
    ),
    OptimizerInfo(
        "adafactor", "AdaFactor", "Shazeer & Stern, Adaptive Learning Rates with Sublinear Memory",
        2018, ESTIMATED, "adafactor:AdaFactor", url="https://arxiv.org/abs/1804.04235",
        published_name="AdaFactor", published_loss=2.4543,
        notes="The published run had scale_parameter and relative_step off.",
    ),
    OptimizerInfo(
        "adabound", "AdaBound", "Luo et al., Adaptive Gradient Methods with Dynamic Bound", 2019,
        ESTIMATED, "adabound:AdaBound", url="https://arxiv.org/abs/1902.09843",
        published_name="AdaBound", published_loss=2.4547,
    ),
    OptimizerInfo(
        "adamw-schedulefree", "AdamWScheduleFree", "Defazio et al., The Road Less Scheduled", 2024,
        ADAPTIVE, "schedulefree:AdamWScheduleFree", url="https://arxiv.org/abs/2405.15682",
        category_is_ours=True, schedule="constant",
        published_name="AdamWScheduleFree", published_loss=2.4677, aliases=("schedulefree",),
        notes="The published run put a cosine schedule on top.",
    ),
    OptimizerInfo(
        "adan", "Adan", "Xie et al., Adan: Adaptive Nesterov Momentum Algorithm", 2022,
        ADAPTIVE, "adan:Adan", url="https://arxiv.org/abs/2208.06677",
        published_name="Adan", published_loss=2.5063,
        notes="The published run took betas (0.9, 0.999, 0.99).",
    ),
    OptimizerInfo(
        "nadam", "NAdam", "Dozat, Incorporating Nesterov Momentum into Adam", 2016,
        ADAPTIVE, "nadam:NAdam",
        published_name="NAdam", published_loss=2.5569,
        notes="The published run corrected its biases twice and had no look ahead:"
        " nadam-lmflow.",
    ),
    OptimizerInfo(
        "adabelief", "AdaBelief", "Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the"
        " Belief in Observed Gradients", 2020, ESTIMATED, "adabelief:AdaBelief",
        url="https://arxiv.org/abs/2010.07468",
        published_name="AdaBelief", published_loss=2.5857,
    ),
    OptimizerInfo(
        "adamax", "AdaMax", "Kingma & Ba, Adam: A Method for Stochastic Optimization, sec. 7.1",
        2015, ADAPTIVE, "adamax:AdaMax", url="https://arxiv.org/abs/1412.6980",
        published_name="AdaMax", published_loss=2.5924,
    ),
    OptimizerInfo(
        "radam", "RAdam", "Liu et al., On the Variance of the Adaptive Learning Rate and Beyond",
        2020, ADAPTIVE, "radam:RAdam", url="https://arxiv.org/abs/1908.03265",
        published_name="RAdam", published_loss=2.6104,
    ),
    OptimizerInfo(
        "adadelta", "AdaDelta", "Zeiler, ADADELTA: An Adaptive Learning Rate Method", 2012,
        ADAPTIVE_PLAIN, "adadelta:AdaDelta", url="https://arxiv.org/abs/1212.5701",
        finds_step_size=True,
        published_name="AdaDelta", published_loss=2.6298,
        notes="The method has no learning rate of its own: use about 1. The published run took"
        " rho 0.95.",
    ),
    OptimizerInfo(
        "adagrad", "AdaGrad", "Duchi et al., Adaptive Subgradient Methods for Online Learning",
        2011, ADAPTIVE_PLAIN, "adagrad:AdaGrad",
        published_name="AdaGrad", published_loss=2.8657,
        notes="The published run took eps 1e-8.",
    ),
    OptimizerInfo(
        "yogi", "Yogi", "Zaheer et al., Adaptive Methods for Nonconvex Optimization", 2018,
        ADAPTIVE, "yogi:Yogi", category_is_ours=True,
        published_name="Yogi", published_loss=2.9314,
    ),
    OptimizerInfo(
        "novograd", "NovoGrad", "Ginsburg et al., Stochastic Gradient Methods with Layer-wise"
        " Adaptive Moments", 2019, ESTIMATED, "novograd:NovoGrad",
        url="https://arxiv.org/abs/1905.11286",
        published_name="NovoGrad", published_loss=3.1071,
        notes="The published run took betas (0.9, 0.999).",
    ),
    OptimizerInfo(
        "sophia", "Sophia", "Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer",
        2023, ESTIMATED, "sophia:Sophia", url="https://arxiv.org/abs/2305.14342",
        published_name="Sophia", published_loss=3.1517, aliases=("sophia-g",),
        notes="The published run never updated its Hessian (sophia-lmflow); this one does, every k"
        " steps.",
    ),
    OptimizerInfo(
        "lamb", "LAMB", "You et al., Large Batch Optimization for Deep Learning", 2020,
        ADAPTIVE, "lamb:Lamb", url="https://arxiv.org/abs/1904.00962",
        published_name="LAMB", published_loss=3.2350,
        notes="The published run took clamp_value 10 and debias off.",
    ),
    OptimizerInfo(
        "lars", "LARS", "You et al., Large Batch Training of Convolutional Networks", 2017,
        ESTIMATED, "lars:Lars", url="https://arxiv.org/abs/1708.03888",
        published_name="LARS", published_loss=3.3329,
        notes="The published run, without weight decay, scaled nothing: lars-lmflow.",
    ),
    OptimizerInfo(
        "sgd-schedulefree", "SGDScheduleFree", "Defazio et al., The Road Less Scheduled", 2024,
        MOMENTUM, "schedulefree:SGDScheduleFree", url="https://arxiv.org/abs/2405.15682",
        category_is_ours=True, schedule="constant",
        published_name="SGDScheduleFree", published_loss=3.3541,
        notes="The published run put a cosine schedule on top; its momentum is not recorded.",
    ),
    OptimizerInfo(
        "sgdp", "SGDP", "Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers",
        2021, MOMENTUM, "sgdp:SGDP", url="https://arxiv.org/abs/2006.08217",
        published_name="SGDP", published_loss=3.3567,
        notes="The published run had flat parameters, which are never projected: delta=1e-30"
        " does the same.",
    ),
    OptimizerInfo(
        "sgd", "SGD", "Sutskever et al., On the Importance of Initialization and Momentum", 2013,
        MOMENTUM, "sgd:SGD",
        published_name="SGD", published_loss=3.3734,
    ),
    OptimizerInfo(
        "lion-8bit", "Lion, 8-bit (bitsandbytes)", "Dettmers et al., 8-bit Optimizers via"
        " Block-wise Quantization", 2022, MOMENTUM, provider="bnb:Lion8bit",
        settings={"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
        url="https://arxiv.org/abs/2110.02861", category_is_ours=True,
        provider_state_bytes=1 + 4 / 256,
        notes="bitsandbytes' own Lion8bit; lion@int8 is our rule with our storage.",
    ),
)  # fmt: skip
