"""What `gpu_check.py` runs, in this order, and for how long each may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the check: ``run``, as ``module:function``, gets a `Report` and the device."""

    name: str
    run: str
    limit_s: float


#: All the sections may take together: a machine is lent for little more.
LIMIT_S = 480
SECTIONS = (
    Section("start", "gpu.start:run", 40),
    Section("rows", "gpu.rows:run", 120),
    Section("times", "gpu.step_times:run", 170),
    Section("finetune", "gpu.finetuning:run", 70),
    Section("leaderboard", "gpu.boards:run", 60),
)


def chosen(names: str | None) -> list[Section]:
    """The sections of these names, separated by commas, in their usual order; all without names.

    Raises:
        ValueError: A name is no section's.
    """
    if names is None:
        return list(SECTIONS)
    asked = [name.strip() for name in names.split(",")]
    known = [section.name for section in SECTIONS]
    for name in asked:
        if name not in known:
            raise ValueError(f"unknown section {name!r}, expected some of {', '.join(known)}")
    return [section for section in SECTIONS if section.name in asked]
