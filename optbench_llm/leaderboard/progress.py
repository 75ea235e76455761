"""Show a running leaderboard: finished rows one by one, and below them what is being trained."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from optbench_llm.leaderboard.executor import Event, Finished, Notice, Ready, Started, Stepped
from optbench_llm.leaderboard.standing import Standing, clock, name_of
from optbench_llm.run_record import RunRecord

if TYPE_CHECKING:
    from rich.console import Console


#: Where lines are read one by one, there is one at least every so many seconds.
_SILENCE_S = 60.0
#: Of more trials that run, only so many are named.
_SHOWN = 4


class Display(Protocol):
    """Where the progress of a leaderboard is shown."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *exception: object) -> None: ...

    def say(self, text: str) -> None:
        """Show a text for itself."""
        ...

    def plan(self, trials: int, steps: int | None) -> None:
        """Announce how many trials will run."""
        ...

    def show(self, event: Event) -> None:
        """Show one event."""
        ...

    def stand(self, standing: Standing) -> None:
        """Show how far the whole is; called about every second."""
        ...


def open_display(console: Console) -> Display:
    """A live display on a terminal, plain lines anywhere else."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()


def outcome(record: RunRecord) -> str:
    """What became of a trial, in a few words."""
    if record.status != "done":
        return f"{record.status}: {record.reason}"
    words = f"train {record.train_loss:.4f}"
    if record.eval_loss is not None:
        words += f"   eval {record.eval_loss:.4f}"
    if record.tokens_per_s:
        words += f"   {record.tokens_per_s:>7,.0f} tokens/s"
    return words


class PlainDisplay:
    """One line for each finished trial, and one a minute: for files, pipes, batch systems."""

    def __init__(self) -> None:
        self._total = self._finished = 0
        self._said_at = time.monotonic()

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def say(self, text: str) -> None:
        """Print a line for itself."""
        print(text, flush=True)
        self._said_at = time.monotonic()

    def plan(self, trials: int, steps: int | None) -> None:
        """Remember how many trials there are."""
        self._total = trials

    def show(self, event: Event) -> None:
        """Print a line for a finished trial, or what a person should know."""
        if isinstance(event, Finished):
            self._finished += event.record.status != "interrupted"
            count = f"[{self._finished:>{len(str(self._total))}}/{self._total}]"
            words = f"{outcome(event.record)}   {event.wall_s:.1f} s"
            self.say(f"{count} {name_of(event.trial):<28} {words}")
        elif isinstance(event, Notice):
            self.say(event.text)

    def stand(self, standing: Standing) -> None:
        """Print a line where there was none for a minute."""
        if time.monotonic() - self._said_at >= _SILENCE_S:
            shown = [trial.in_words for trial in standing.running[:_SHOWN]]
            more = len(standing.running) - len(shown)
            words = "; ".join([*shown, *([f"{more} more"] if more else [])]) or "nothing runs"
            left = "" if standing.left_s is None else f", {clock(standing.left_s)} left"
            self.say(f"{standing.ended} of {standing.planned} trials have ended{left}; {words}")


class LiveDisplay:
    """Finished trials scroll up; below them one line for each worker and one for the whole."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console
        self._total = 0
        self._steps: int | None = None
        self._progress = Progress(
            TextColumn("[bold]{task.description:<28}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self._whole = self._progress.add_task("leaderboard", total=None, text="", visible=False)
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the live part."""
        self._console.print(text, highlight=False, markup=False)

    def plan(self, trials: int, steps: int | None) -> None:
        """Show the empty bar of the whole."""
        self._steps, self._total = steps, trials
        self._progress.update(
            self._whole, total=self._total, text="loading model and data", visible=True
        )

    def show(self, event: Event) -> None:
        """Move the bars; print a finished trial above them."""
        if isinstance(event, Ready):
            self._steps = event.facts.steps
        elif isinstance(event, Started):
            self._drop(event.worker)
            self._tasks[event.worker] = self._progress.add_task(
                name_of(event.trial), total=self._steps, text="starting"
            )
        elif isinstance(event, Stepped):
            of = f"/{self._steps}" if self._steps else ""
            self._progress.update(
                self._tasks[event.worker],
                completed=event.step,
                text=f"step {event.step}{of}   loss {event.loss:.4f}",
            )
        elif isinstance(event, Finished):
            self._drop(event.worker)
            self._finish(event)
        elif isinstance(event, Notice):
            self.say(event.text)

    def stand(self, standing: Standing) -> None:
        """Move the bar of the whole."""
        ended = standing.ended - (standing.planned - self._total)
        text = f"{ended} of {self._total}   {clock(standing.at - standing.began)} elapsed"
        if standing.left_s is not None:
            text += f", {clock(standing.left_s)} left"
        self._progress.update(self._whole, completed=ended, text=text)

    def _finish(self, event: Finished) -> None:
        from rich.text import Text

        done = event.record.status == "done"
        mark = Text(" ✓ ", style="green") if done else Text(" ✗ ", style="red")
        words = f"{name_of(event.trial):<28} {outcome(event.record)}   {event.wall_s:.1f} s"
        self._console.print(mark + Text(words, style="" if done else "red"))

    def _drop(self, worker: int) -> None:
        if worker in self._tasks:
            self._progress.remove_task(self._tasks.pop(worker))
