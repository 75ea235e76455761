"""Lookahead: slow weights behind any rule's fast ones (Zhang et al. 2019, arXiv:1907.08610)."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import Adam
from optbench_llm.rules.hyperparameters import COUNT, UNIT
from optbench_llm.rules.rule import Rule, Slot, Update
from optbench_llm.rules.wrapped import WrappedRule

if TYPE_CHECKING:
    from torch import Tensor

SLOW = Slot("slow", delicate=True, initial=lambda p, g, h: p)


@cache
def lookahead(base: type[Rule]) -> type[Rule]:
    """Return Lookahead around a rule: the same class each time for the same base.

    The base's state is kept at a synchronisation (the authors' ``pullback_momentum="none"``). A
    companion is wrapped too, with ``companion_lookahead_k`` and ``companion_lookahead_alpha`` of
    its own.

    Raises ValueError for a base that is evaluated elsewhere than where it is trained, and for one
    that looks ahead already.
    """
    if base.evaluation_point is not None:
        raise ValueError(
            f"Lookahead cannot wrap {base.__name__}: it is evaluated at an average of its iterates"
            " and trained at another point, and pulling back one would tear the two apart; use it"
            " alone"
        )
    if "lookahead_k" in base.defaults:
        raise ValueError(f"Lookahead cannot wrap {base.__name__}, which looks ahead already")

    class Lookahead(base, metaclass=WrappedRule):
        r"""Slow weights that are moved every k steps towards the fast ones, which start anew there.

        .. math::
            \theta_t &= \operatorname{base}(\theta_{t-1}, g_t) \\
            \phi &\leftarrow \phi + \alpha\,(\theta_t - \phi), \quad \theta_t \leftarrow \phi
                \quad\text{where } k \text{ divides } t

        with :math:`k` = ``lookahead_k``, :math:`\alpha` = ``lookahead_alpha`` and slow weights
        :math:`\phi_0 = \theta_0`. In between the base steps as it would alone. Steps are counted
        for each parameter by itself. The fast weights are evaluated and saved, as in the authors'
        code unless it is told otherwise; after a multiple of k steps the two are one. The defaults
        are the paper's most usual ones; the authors' code starts from an alpha of 0.8.
        """

        made_by, made_of = lookahead, base

        slots = (*base.slots, SLOW)
        defaults = {**base.defaults, "lookahead_k": 5, "lookahead_alpha": 0.5}
        ranges = {**base.ranges, "lookahead_k": COUNT, "lookahead_alpha": UNIT}
        companion = None if base.companion is None else lookahead(base.companion)

        @classmethod
        def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
            return (*base.slots_for(shape, h), SLOW)

        @staticmethod
        def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
            due = t % h.lookahead_k == 0
            return {
                **base.scalars(h, t, carry),
                "lookahead_due": float(due),
                "lookahead_weight": h.lookahead_alpha if due else 0.0,
            }

        @staticmethod
        def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
            fast, new = base.update(p, g, s, c, sums)
            # Written so that weights of 0 and 1 give back the one value or the other bit for bit.
            slow = s.slow * (1 - c.lookahead_weight) + fast * c.lookahead_weight
            p = fast * (1 - c.lookahead_due) + slow * c.lookahead_due
            return p, {**new, "slow": slow}

    Lookahead.__doc__ = f"{inspect.getdoc(Lookahead)}\n\nThe base: {inspect.getdoc(base)}"
    Lookahead.__name__ = Lookahead.__qualname__ = f"Lookahead{base.__name__}"
    return Lookahead


#: The paper's experiments on language models look ahead of Adam.
LookaheadAdam = lookahead(Adam)
