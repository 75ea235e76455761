"""A figure of the page: what it is called, how to read it, and the plots it may show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

Records = Sequence[Mapping[str, Any]]

#: Colours that are told apart by people who see few, on white and on black; each has a shape too.
BETTER, WORSE, ALIKE, OTHER = "#2f86c8", "#d9641c", "#808080", "#1a9e77"
#: Lines that are told apart by colour, and, where there are more of them, by dashes.
LINES = (
    "#2f86c8", "#d9641c", "#1a9e77", "#c2568f", "#8a6fd1", "#a8861a", "#3aa6b9", "#9a5b3c",
)  # fmt: skip
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


@dataclass(frozen=True)
class Plot:
    """A Vega-Lite plot over the figure's data.

    ``narrow`` is what a phone has room for, ``still`` makes what stands outside of the page, where
    nobody can point at anything; None where these are the plot itself.
    """

    name: str
    spec: dict[str, Any]
    narrow: dict[str, Any] | None = None
    still: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Figure:
    """Plots of one question; a reader chooses between them where there are several.

    ``data`` has, by name, the records that the plots show; ``chosen`` are the rows that stand out
    at first, where a reader chooses them.
    """

    id: str
    title: str
    how_to_read: str
    does_not_say: str
    plots: tuple[Plot, ...]
    data: dict[str, Records] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()


def spec_of(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as Vega-Lite, without what the page sets for all."""
    spec = chart.to_dict(validate=False)  # type: ignore[attr-defined]
    spec.pop("config", None)
    spec.pop("$schema", None)
    return spec
