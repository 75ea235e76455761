"""Wrappers: what a prefix of a spec, as in ``lookahead+adan``, makes of a row."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from optbench_llm.catalog.info import OptimizerInfo

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule


@dataclass(frozen=True)
class Wrapper:
    """One wrapper: ``rule`` is the dotted path of a function from a rule to a rule.

    ``of_gradients`` says that it changes only what gradients the base steps with, so that it comes
    to the same inside another wrapper as around it.
    """

    name: str
    title: str
    paper: str
    year: int
    url: str
    rule: str
    schedule: Literal["any", "constant"] = "any"
    of_gradients: bool = False

    def wrap(self, base: type[Rule]) -> type[Rule]:
        """The rule around another. Raises ValueError for one that cannot be wrapped."""
        module, _, name = self.rule.partition(":")
        return getattr(importlib.import_module(f"optbench_llm.rules.{module}"), name)(base)


WRAPPERS = {
    wrapper.name: wrapper
    for wrapper in (
        Wrapper(
            "lookahead", "Lookahead", "Zhang et al., Lookahead Optimizer: k steps forward, 1 step"
            " back", 2019, "https://arxiv.org/abs/1907.08610", "lookahead:lookahead",
        ),
        Wrapper(
            "schedulefree", "schedule-free", "Defazio et al., The Road Less Scheduled", 2024,
            "https://arxiv.org/abs/2405.15682", "schedulefree_wrapper:schedulefree",
            schedule="constant",
        ),
        Wrapper(
            "sam", "SAM", "Foret et al., Sharpness-Aware Minimization for Efficiently Improving"
            " Generalization", 2021, "https://arxiv.org/abs/2010.01412", "sam:sam",
            of_gradients=True,
        ),
        Wrapper(
            "svrg", "alpha-SVRG", "Yin et al., A Coefficient Makes SVRG Effective", 2025,
            "https://arxiv.org/abs/2311.05589", "svrg:svrg", of_gradients=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class WrappedInfo(OptimizerInfo):
    """A row with wrappers around it, the outermost first; all else as of any row."""

    wrappers: tuple[Wrapper, ...] = ()

    def rule_class(self) -> type[Rule]:
        """The rule with its wrappers. Raises ValueError for one that cannot be wrapped."""
        rule = super().rule_class()
        for wrapper in reversed(self.wrappers):
            rule = wrapper.wrap(rule)
        return rule


def wrapped_info(base: OptimizerInfo, names: tuple[str, ...]) -> OptimizerInfo:
    """What is known of a row with the wrappers of these names around it, the outermost first.

    What was published of the row alone does not hold for it.
    """
    if not names:
        return base
    wrappers = tuple(WRAPPERS[name] for name in names)
    titles = [wrapper.title for wrapper in wrappers]
    row: dict[str, Any] = {item.name: getattr(base, item.name) for item in fields(base)}
    row.update(
        name="+".join((*names, base.name)),
        title=f"{' + '.join(titles)} around {base.title}",
        paper=f"{'; '.join(wrapper.paper for wrapper in wrappers)}; around {base.paper}",
        year=max(base.year, *(wrapper.year for wrapper in wrappers)),
        url=wrappers[0].url,
        category_is_ours=True,
        published_name=None,
        published_loss=None,
        aliases=(),
        variant_of=None,
        notes=f"{base.name} alone: {base.notes}" if base.notes else "",
    )
    if any(wrapper.schedule == "constant" for wrapper in wrappers):
        row["schedule"] = "constant"
    return WrappedInfo(**row, wrappers=wrappers)
