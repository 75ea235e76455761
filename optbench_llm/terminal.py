"""What all commands print with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Stands for a value that there is not.
MISSING = "–"
UNBOUNDED = 1000


def make_console() -> Console:
    """As wide as the terminal; in a file or a pipe, lines end where the text does."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


def plain_table() -> Table:
    """A table without frame."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
