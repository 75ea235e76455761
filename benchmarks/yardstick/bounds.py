"""What the engine promises, and what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
#: A row and a figure of it.
Figure = tuple[str, float]


@dataclass(frozen=True)
class Bound:
    """One promise: ``met`` is None where nothing was measured that could tell."""

    what: str
    bound: str
    measured: str
    met: bool | None


def ours_of(row: Row, size: str) -> dict[str, Any] | None:
    """Our measured step that counts: the compiled one, at 1M the better one, as auto is to."""
    ours = [one for one in row.get("implementations", ()) if one["ours"] and "reason" not in one]
    if size != "1M":
        ours = [one for one in ours if one["label"] == "ours, compiled"]
    return min(ours, key=lambda one: one["ratio_to_fused"], default=None)


def fastest_library(row: Row) -> dict[str, Any] | None:
    """The fastest of the others."""
    return min(libraries_of(row), key=lambda one: one["ratio_to_fused"], default=None)


def libraries_of(row: Row, prefix: str = "") -> list[dict[str, Any]]:
    """The others that could be measured."""
    return [
        one
        for one in row.get("implementations", ())
        if not one["ours"] and "reason" not in one and one["label"].startswith(prefix)
    ]


def speed_up(row: Row, size: str, prefix: str = "") -> float | None:
    """Time of the fastest library, of one alone with a prefix, over ours."""
    ours = ours_of(row, size)
    others = [one["ratio_to_fused"] for one in libraries_of(row, prefix)]
    return min(others) / ours["ratio_to_fused"] if ours and others else None


def bounds_of(document: dict[str, Any]) -> list[Bound]:
    """All promises that one size can tell of."""
    size, rows = document["params"], document["rows"]
    found = [*_speeds(rows, size), *_low_bits(rows, size)]
    if any("first_step" in row for row in rows):
        found += _first_steps(rows)
    return [*found, *_memory(rows)]


def _speeds(rows: Sequence[Row], size: str) -> list[Bound]:
    plain = [row for row in rows if "@" not in row["optimizer"]]
    element = _ours(plain, size, ("element",))
    wide = _ours(plain, size, ("tensor", "model"))
    library = [
        (row["optimizer"], 1 / up)
        for row in plain
        if row.get("scope") == "matrix" and (up := speed_up(row, size))
    ]
    ups = _figures(plain, lambda row: speed_up(row, size, "pytorch_optimizer:"))
    return [
        _mean("element scope, times the roofline", element, 1.25, at_most=True),
        _worst("element scope, worst row", element, 1.6),
        _mean("tensor and model scope, times the roofline", wide, 2.0, at_most=True),
        _each_below("matrix scope, times the fastest library", library),
        _mean("times as fast as pytorch_optimizer", ups, 6.0, at_most=False),
    ]


def _low_bits(rows: Sequence[Row], size: str) -> list[Bound]:
    by_name = {row["optimizer"]: row for row in rows}
    low, full = by_name.get("lion@int8", {}), by_name.get("lion", {})
    ours, reference = ours_of(low, size), ours_of(full, size)
    state = [("lion@int8", ours["state_bytes_per_quantised_param"])] if ours else []
    ratio = (
        [("lion@int8", ours["ratio_to_fused"] / reference["ratio_to_fused"])]
        if ours and reference
        else []
    )
    up = speed_up(low, size, "bnb:Lion8bit")
    return [
        _worst("lion@int8, bytes of state per quantised parameter", state, 1.1),
        _worst("lion@int8, times the time of lion", ratio, 1.3),
        _mean(
            "lion@int8, times as fast as bnb:Lion8bit", _one("lion@int8", up), 8.0, at_most=False
        ),
    ]


def _first_steps(rows: Sequence[Row]) -> list[Bound]:
    def seconds(state: str) -> list[Figure]:
        return _figures(rows, lambda row: row.get("first_step", {}).get(f"{state}_s"))

    return [
        _worst("first step with an empty compiler cache, s", seconds("cold"), 20.0),
        _worst("first step with a filled compiler cache, s", seconds("warm"), 5.0),
    ]


def _memory(rows: Sequence[Row]) -> list[Bound]:
    flat = [row for row in rows if row.get("scope") in ("element", "tensor", "model")]
    found = []
    for engine in ("compiled", "eager"):

        def percent(row: Row, label: str = f"ours, {engine}") -> float | None:
            for one in row.get("implementations", ()):
                if one["label"] == label:
                    return one.get("extra_peak_percent")
            return None

        figures = _figures(flat, percent)
        if figures:
            what = f"extra memory of a step, element to model scope, {engine}, % of the parameters"
            found.append(_worst(what, figures, 2.0))
    return found


def _ours(rows: Sequence[Row], size: str, scopes: tuple[str, ...]) -> list[Figure]:
    def ratio(row: Row) -> float | None:
        ours = ours_of(row, size)
        return ours["ratio_to_roofline"] if ours else None

    return _figures([row for row in rows if row.get("scope") in scopes], ratio)


def _figures(rows: Sequence[Row], figure: Callable[[Row], float | None]) -> list[Figure]:
    return [(row["optimizer"], value) for row in rows if (value := figure(row)) is not None]


def _one(name: str, value: float | None) -> list[Figure]:
    return [] if value is None else [(name, value)]


def _mean(what: str, figures: Sequence[Figure], bound: float, *, at_most: bool) -> Bound:
    limit = f"{'at most' if at_most else 'at least'} {bound:g}"
    if not figures:
        return Bound(what, limit, "–", None)
    mean = math.exp(statistics.mean(math.log(value) for _, value in figures))
    measured = f"{mean:.2f}"
    if len(figures) > 1:
        what, measured = f"{what}, geometric mean", f"{measured} ({len(figures)} rows)"
    return Bound(what, limit, measured, mean <= bound if at_most else mean >= bound)


def _worst(what: str, figures: Sequence[Figure], bound: float) -> Bound:
    limit = f"at most {bound:g}"
    if not figures:
        return Bound(what, limit, "–", None)
    beyond = sorted((f for f in figures if f[1] > bound), key=lambda f: -f[1])
    shown = beyond or [max(figures, key=lambda f: f[1])]
    measured = ", ".join(f"{name} {value:.2f}" for name, value in shown[:6])
    if len(shown) > 6:
        measured += f" and {len(shown) - 6} more"
    return Bound(what, limit, f"{measured} (of {len(figures)})", not beyond)


def _each_below(what: str, figures: Sequence[Figure]) -> Bound:
    if not figures:
        return Bound(what, "each below 1", "–", None)
    measured = ", ".join(f"{name} {value:.2f}" for name, value in figures)
    return Bound(what, "each below 1", measured, all(value < 1 for _, value in figures))
