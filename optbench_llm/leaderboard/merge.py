"""Put the trials of several stores into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.store import Store, Untouched

#: What the same trial gives again, bit for bit; all else in a record is what it cost.
_SAME_AGAIN = (
    "status", "steps", "train_loss", "first_loss", "last_loss", "eval_loss", "test_loss", "tokens",
    "batches_hash",
)  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """How many trials the merged store holds, and how many of them several stores had."""

    trials: int
    shared: int


def merge(stores: Sequence[Path], into: Path) -> Merged:
    """Put all trials, rows and the untouched model's losses of ``stores`` into one store.

    ``into`` is a new folder, or a store of the same model, data and training, also one of
    ``stores``; what it holds stays, and a merge that was cut short is simply repeated. Of a trial
    that several hold, a final result takes the place of one that is not; of two final ones, which
    must be equal, the first is kept, with its times. Nothing is written before all is compared.

    Raises:
        ValueError: stores of another model, data, training or kind of device; a trial whose final
            results differ, such as one run eager and compiled; or ``into`` cannot be written.
    """
    if len(stores) < 2:
        raise ValueError("merge: expected two stores or more")
    opened = [Store.read(path) for path in stores]
    identity = opened[0].identity
    for store in opened[1:]:
        differing = identity.differences(store.identity)
        if differing:
            raise ValueError(
                f"store {store.path}: its trials cannot be ranked with those of {opened[0].path}: "
                f"{'; '.join(differing).replace(' here', f' in {opened[0].path}')}"
            )
    with Store.open(into, identity) as target:
        sources = [target, *opened]
        _refuse_other_devices(sources)
        chosen, shared = _choose(sources)
        for source, result in chosen.values():
            if source is not target:
                target.copy(result, source)
        target.add_rows([entry for source in opened for entry in source.rows])
        untouched = _untouched(sources)
        if untouched != (target.untouched or Untouched()):
            target.put_untouched(untouched)
        return Merged(len(chosen), shared)


def _choose(sources: Sequence[Store]) -> tuple[dict[str, tuple[Store, TrialResult]], int]:
    """The result of each trial that is to be kept, with its store, and the count of shared ones."""
    chosen: dict[str, tuple[Store, TrialResult]] = {}
    shared: set[str] = set()
    places: dict[Path, Store] = {}
    for source in sources:
        places.setdefault(source.path.resolve(), source)
    for source in places.values():
        for id, result in source.by_id.items():
            if id not in chosen:
                chosen[id] = (source, result)
                continue
            shared.add(id)
            first, earlier = chosen[id]
            if earlier.final and result.final:
                _refuse_difference(first, earlier, source, result)
            elif result.final:
                chosen[id] = (source, result)
    return chosen, len(shared)


def _refuse_difference(a: Store, first: TrialResult, b: Store, second: TrialResult) -> None:
    differing = [
        f"{name} {getattr(first.record, name)!r} in {a.path}, "
        f"{getattr(second.record, name)!r} in {b.path}"
        for name in _SAME_AGAIN
        if getattr(first.record, name) != getattr(second.record, name)
    ]
    if not differing:
        ours, theirs = first.curves(), second.curves()
        if ours == theirs:
            return
        differing = [f"the losses of single steps or records in {a.path} and {b.path}"]
    engines = (first.record.engine, second.record.engine)
    if engines[0] != engines[1]:
        differing.append(f"engine {engines[0]} in {a.path}, {engines[1]} in {b.path}")
    raise ValueError(
        f"trial {first.trial.folder}: the same trial gave two results: {'; '.join(differing)}; "
        "delete its folder in the store that you do not trust"
    )


def _refuse_other_devices(sources: Sequence[Store]) -> None:
    """Losses of two kinds of device differ, and times cannot be compared."""
    first: dict[str, Path] = {}
    for source in sources:
        for result in source.results:
            if result.environment.device_type is not None:
                first.setdefault(result.environment.device_type, source.path)
    if len(first) > 1:
        places = ", ".join(f"{device} in {path}" for device, path in first.items())
        raise ValueError(f"merge: results were measured on different devices: {places}")


def _untouched(sources: Sequence[Store]) -> Untouched:
    """The first loss known of each split: another machine's may differ in its last digits."""
    known = [source.untouched for source in sources if source.untouched]
    return Untouched(
        next((u.eval_loss for u in known if u.eval_loss is not None), None),
        next((u.test_loss for u in known if u.test_loss is not None), None),
    )
