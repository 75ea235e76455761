"""Everything that is measured of one row at one size, as plain values."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

from optbench_llm.catalog import parse_spec
from yardstick.bench import Bench
from yardstick.contenders import REFUSALS, Contender, Stepper, contenders, fused_adamw
from yardstick.peak_memory import FROM_ELEMENTS, extra_peak_bytes
from yardstick.turns import Samples, take_turns

WARM_UP_STEPS = 2
#: Read p and g, write p, in fp32.
PARAM_TRAFFIC = 12
#: ... and read and write two slots: what torch's fused AdamW moves.
FUSED_TRAFFIC = 28
#: Of state, and of what a step needs beside it, for those that are in memory together.
BYTES_PER_ELEMENT = 16
BYTES_PER_ELEMENT_OF_MATRICES = 64
MEMORY_SHARE = 0.7


def measure_row(spec: str, bench: Bench, *, repetitions: int, enough_s: float) -> dict[str, Any]:
    """All implementations of a row, with times, traffic and extra memory."""
    info = parse_spec(spec).info
    assert info is not None
    bench.reset()
    fused = fused_adamw(bench)
    fused.warm_up(WARM_UP_STEPS)
    period = info.defaults.get("precondition_frequency", 1)
    implementations: list[dict[str, Any]] = []
    for together in _batches(list(contenders(spec)), bench, info.scope):
        implementations += _measure(together, bench, fused, repetitions, enough_s, period)
        gc.collect()
    return {
        "optimizer": spec,
        "scope": info.scope,
        "statistic": "median" if period == 1 else f"mean over whole periods of {period} steps",
        **_with_traffic(implementations, bench.elements),
    }


def _batches(
    all_of_row: Sequence[Contender], bench: Bench, scope: str
) -> Iterator[list[Contender]]:
    """As many at a time as the memory that is free has room for."""
    each = BYTES_PER_ELEMENT_OF_MATRICES if scope == "matrix" else BYTES_PER_ELEMENT
    room = max(1, int(MEMORY_SHARE * _available_bytes() // (each * bench.elements)))
    for start in range(0, len(all_of_row), room):
        yield list(all_of_row[start : start + room])


def _available_bytes() -> int:
    with open("/proc/meminfo", encoding="utf-8") as lines:
        sizes = dict(line.split(":") for line in lines)
    return 1024 * int(sizes["MemAvailable"].split()[0])


def _measure(
    together: Sequence[Contender],
    bench: Bench,
    fused: Stepper,
    repetitions: int,
    enough_s: float,
    period: int,
) -> list[dict[str, Any]]:
    steppers: dict[str, Stepper] = {}
    failures: dict[str, str] = {}
    for contender in together:
        try:
            # A stage that comes once a period is compiled when it comes.
            steps = period + 1 if contender.is_compiled else 0
            steppers[contender.label] = contender.ready(bench, max(WARM_UP_STEPS, steps))
        except REFUSALS as error:
            failures[contender.label] = _in_short(error)
    samples = take_turns(steppers, fused, repetitions=repetitions, enough_s=enough_s, period=period)
    found = []
    for contender in together:
        label = contender.label
        result: dict[str, Any] = {"label": label, "ours": contender.is_ours, "note": contender.note}
        failure = failures.get(label) or samples[label].failure
        if failure:
            found.append({**result, "reason": failure})
            continue
        result |= _times(samples[label], periodic=period > 1)
        result["state_bytes_per_param"] = steppers[label].state_bytes() / bench.elements
        state_bytes, elements = steppers[label].quantised()
        if elements:
            result["state_bytes_per_quantised_param"] = state_bytes / elements
        found.append(result | _extra_memory(steppers[label], bench))
    return found


def _times(samples: Samples, *, periodic: bool) -> dict[str, Any]:
    return {
        "step_ms": samples.typical_ms(periodic=periodic),
        "fused_adamw_ms": Samples(samples.fused_ms).typical_ms(periodic=periodic),
        "ratio_to_fused": samples.typical_ratio(periodic=periodic),
        "lowest_ratio": min(samples.ratios),
        "highest_ratio": max(samples.ratios),
        "repetitions": len(samples.step_ms),
    }


def _extra_memory(stepper: Stepper, bench: Bench) -> dict[str, Any]:
    if bench.elements < FROM_ELEMENTS:
        return {}
    stepper.prepare()
    peak = extra_peak_bytes(stepper.step)
    share = None if peak is None else 100 * peak / bench.param_bytes
    return {"extra_peak_bytes": peak, "extra_peak_percent": share}


def _with_traffic(implementations: list[dict[str, Any]], elements: int) -> dict[str, Any]:
    """The row's traffic is that of our slots; how near all come to the time it takes at least."""
    states = [one["state_bytes_per_param"] for one in implementations if _measured_ours(one)]
    if not states:
        return {"bytes_per_param": None, "implementations": implementations}
    traffic = PARAM_TRAFFIC + 2 * states[0]
    for one in implementations:
        if "reason" not in one:
            one["gb_per_s"] = traffic * elements / one["step_ms"] / 1e6
            one["ratio_to_roofline"] = one["ratio_to_fused"] * FUSED_TRAFFIC / traffic
    return {"bytes_per_param": traffic, "implementations": implementations}


def _measured_ours(one: dict[str, Any]) -> bool:
    return one["ours"] and "reason" not in one


def _in_short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
