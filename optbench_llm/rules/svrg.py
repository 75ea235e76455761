"""alpha-SVRG: variance of the gradient taken out by a snapshot (Yin et al. 2025, 2311.05589)."""

from __future__ import annotations

import inspect
from functools import cache

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.hyperparameters import COUNT, NON_NEGATIVE, OneOf, Optional
from optbench_llm.rules.rule import Rule
from optbench_llm.rules.wrapped import (
    WrappedRule,
    check_gradients_are_the_batchs,
    wrapper_settings,
)

#: What the program keeps of each parameter: the weights of the snapshot, the mean gradient there.
SNAPSHOT, SNAPSHOT_GRADIENT = "svrg_snapshot", "svrg_gradient"
SETTINGS = {
    "coefficient": 0.75,
    "coefficient_schedule": "linear",
    "snapshot_period": None,
    "snapshot_batches": None,
}
RANGES = {
    "coefficient": NON_NEGATIVE,
    "coefficient_schedule": OneOf(("linear", "constant")),
    "snapshot_period": Optional(COUNT),
    "snapshot_batches": Optional(COUNT),
}


@cache
def svrg(base: type[Rule]) -> type[Rule]:
    """Return alpha-SVRG around a rule: the same class each time for the same base.

    Raises ValueError for a base whose gradients another program makes.
    """
    check_gradients_are_the_batchs("alpha-SVRG", base)

    class Svrg(base, metaclass=WrappedRule):
        r"""A base that steps with a gradient of less variance.

        .. math::
            \tilde\theta &\leftarrow \theta_{t-1}, \quad
                \mu \leftarrow \tfrac1B \textstyle\sum_b \nabla f_b(\tilde\theta)
                \quad\text{at every snapshot} \\
            g_t &= \nabla f_{b_t}(\theta_{t-1})
                - \alpha\,\bigl(\nabla f_{b_t}(\tilde\theta) - \mu\bigr) \\
            \theta_t &= \operatorname{base}(\theta_{t-1}, g_t)

        A snapshot is taken every ``snapshot_period`` steps (None: once an epoch), and its mean
        gradient runs over the batches of one epoch, or over the first ``snapshot_batches`` of a
        fresh one. :math:`\alpha` is ``coefficient``; under the ``linear`` schedule that of the s-th
        of S snapshots is :math:`\alpha\,(1 - s/S)` from s = 0 (the authors' code reaches 0 at the
        last one). Both gradients of a batch are under the same dropout, as in the authors' code.
        Clipping acts on :math:`g_t`. Costs one more pass a step, and one over the data a snapshot;
        snapshot and mean gradient are state.
        """

        made_by, made_of = svrg, base

        programs = (*base.programs, "svrg")
        replaces_gradients = True
        kept_by_program = (SNAPSHOT, SNAPSHOT_GRADIENT)
        defaults = {**base.defaults, **wrapper_settings(base, "svrg", SETTINGS)}
        ranges = {**base.ranges, **wrapper_settings(base, "svrg", RANGES)}

    Svrg.__doc__ = f"{inspect.getdoc(Svrg)}\n\nThe base: {inspect.getdoc(base)}"
    Svrg.__name__ = Svrg.__qualname__ = f"Svrg{base.__name__}"
    return Svrg


#: The paper's base.
SvrgAdamW = svrg(AdamW)
