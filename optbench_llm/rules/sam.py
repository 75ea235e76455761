"""SAM: the gradient at the worst point nearby (Foret et al. 2021, arXiv:2010.01412)."""

from __future__ import annotations

import inspect
from functools import cache

from optbench_llm.rules.hyperparameters import FLAG, NON_NEGATIVE
from optbench_llm.rules.rule import Rule
from optbench_llm.rules.sgd import SGD
from optbench_llm.rules.wrapped import (
    WrappedRule,
    check_gradients_are_the_batchs,
    wrapper_settings,
)


@cache
def sam(base: type[Rule]) -> type[Rule]:
    """Return SAM around a rule: the same class each time for the same base.

    Raises ValueError for a base whose gradients another program makes.
    """
    check_gradients_are_the_batchs("SAM", base)

    class Sam(base, metaclass=WrappedRule):
        r"""A base that steps with the gradient at the perturbed weights.

        .. math::
            g &= \nabla f(\theta_{t-1}), \quad
                \epsilon = \rho\,\frac{T^2 g}{\lVert T g\rVert + 10^{-12}} \\
            \theta_t &= \operatorname{base}(\theta_{t-1}, \nabla f(\theta_{t-1} + \epsilon))

        :math:`T` is 1, or :math:`|\theta_{t-1}|` under ``adaptive`` (ASAM, Kwon et al. 2021,
        arXiv:2102.11600, without its small constant), and the norm runs over all weights. Both
        gradients are of one batch under the same dropout, as in the authors' code; clipping acts on
        the second one, and the first one's length is of no account. Costs one more pass a step. A
        base that has a ``rho`` of its own keeps it, and SAM's is then ``sam_rho``.
        """

        made_by, made_of = sam, base

        programs = (*base.programs, "sam")
        replaces_gradients = True
        defaults = {**base.defaults, **wrapper_settings(base, "sam", SETTINGS)}
        ranges = {**base.ranges, **wrapper_settings(base, "sam", RANGES)}

    Sam.__doc__ = f"{inspect.getdoc(Sam)}\n\nThe base: {inspect.getdoc(base)}"
    Sam.__name__ = Sam.__qualname__ = f"Sam{base.__name__}"
    return Sam


SETTINGS = {"rho": 0.05, "adaptive": False}
RANGES = {"rho": NON_NEGATIVE, "adaptive": FLAG}


class SamSGD(sam(SGD)):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """SAM around SGD with the paper's momentum."""

    defaults = {**sam(SGD).defaults, "momentum": 0.9}


SamSGD.__doc__ = sam(SGD).__doc__
