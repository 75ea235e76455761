"""Programs: what an optimizer needs beyond the one gradient of a step, by name."""

from __future__ import annotations

from optbench_llm.programs.hutchinson import Hutchinson, NormalHutchinson
from optbench_llm.programs.labels import count_trained, trained_positions
from optbench_llm.programs.program import Program
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.sam import SAM
from optbench_llm.programs.sophia_g import SophiaG
from optbench_llm.programs.svrg import SVRG

__all__ = ["PROGRAMS", "Program", "Replay", "count_trained", "create_program", "trained_positions"]

PROGRAMS: dict[str, type[Program]] = {
    program.name: program for program in (SophiaG, Hutchinson, NormalHutchinson, SAM, SVRG)
}


def create_program(name: str) -> Program:
    """Return a program by the name that a rule or the catalog gives.

    Raises ValueError for an unknown name.
    """
    if name not in PROGRAMS:
        raise ValueError(f"unknown program {name!r}, expected one of {', '.join(PROGRAMS)}")
    return PROGRAMS[name]()
