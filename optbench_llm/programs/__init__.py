"""Programs: what an optimizer needs beyond the one gradient of a step, by name."""

from __future__ import annotations

from optbench_llm.programs.program import Program
from optbench_llm.programs.replay import Replay, trained_positions
from optbench_llm.programs.sophia_g import SophiaG

__all__ = ["PROGRAMS", "Program", "Replay", "SophiaG", "create_program", "trained_positions"]

PROGRAMS: dict[str, type[Program]] = {program.name: program for program in (SophiaG,)}


def create_program(name: str) -> Program:
    """Return a program by the name that a rule or the catalog gives.

    Raises ValueError for an unknown name.
    """
    if name not in PROGRAMS:
        raise ValueError(f"unknown program {name!r}, expected one of {', '.join(PROGRAMS)}")
    return PROGRAMS[name]()
