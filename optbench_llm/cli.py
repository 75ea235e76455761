"""The command ``optbench-llm``: parses and calls; what it calls is imported when it is called."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import optbench_llm
from optbench_llm.spec_list import split_specs
from optbench_llm.stopping import exit_code, heeding_signals, signal_of

app = typer.Typer(
    help="Any optimizer, by name, in any Hugging Face Trainer, compared in a fair table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of ``optbench-llm`` and ``python -m optbench_llm``."""
    # A terminal or pipe that is not UTF-8 gets "?" for a dash instead of a traceback.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app()


@contextmanager
def _ending_without_traceback() -> Iterator[None]:
    """What users do wrong, and whatever ends the command from outside, is one line."""
    try:
        with heeding_signals():
            yield
    except KeyboardInterrupt as interrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(exit_code(signal_of(interrupt))) from None
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of a pipe has seen enough: typer ends in silence
        typer.echo(f"error: {_message(error)}", err=True)
        raise typer.Exit(2) from None


def _message(error: ValueError | OSError) -> str:
    """The error's own words; of one that the system raised, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"optbench-llm {optbench_llm.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Names to show; * and ? are wildcards.")] = "*",
    category: Annotated[str | None, typer.Option(help="Only this category.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Only this scope: element, tensor, matrix or model.")
    ] = None,
    year: Annotated[int | None, typer.Option(help="Only from this year.")] = None,
    since: Annotated[int | None, typer.Option(help="Only from this year on.")] = None,
    max_state_bytes: Annotated[
        float | None,
        typer.Option(help="Only with so many bytes of fp32 state per parameter, or fewer."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write them as a picture over the years."),
    ] = None,
) -> None:
    """List the optimizers of the catalog."""
    with _ending_without_traceback():
        from optbench_llm.catalog_pages import Selection, list_json, print_list

        selection = Selection(pattern, category, scope, year, since, max_state_bytes)
        if html is not None and as_json:
            raise ValueError("--html and --json: choose one of them")
        if html is not None:
            from optbench_llm.report.page import write_page
            from optbench_llm.report.roadmap import roadmap_page

            write_page(html, roadmap_page(selection.rows()))
            typer.echo(html)
        elif as_json:
            _echo_json(list_json(selection))
        else:
            print_list(selection)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="An optimizer's name or spec.")],
    store: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="A store whose tuned board tells the lr that it found; may be given several times"
            " (default: those in ./runs, and the board that ships).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show one optimizer: its paper, equations, hyperparameters, state, needs and limits."""
    with _ending_without_traceback():
        from optbench_llm.info_page import info_json, print_info

        if as_json:
            _echo_json(info_json(name, store))
        else:
            print_info(name, store)


@app.command()
def memory(
    model: Annotated[
        str,
        typer.Option(
            help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, random:CONFIG, optbench:tiny-gpt2,"
            " a folder or a hub id; only its config is read."
        ),
    ],
    optim: Annotated[
        str | None,
        typer.Option(metavar="SPEC,SPEC...", help="Only these, or wildcards (default: all)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, exact bytes.")] = False,
) -> None:
    """Show what state every optimizer keeps for a model, to the byte; nothing is loaded."""
    with _ending_without_traceback():
        from optbench_llm.catalog import expand
        from optbench_llm.memory_page import memory_json, print_memory

        specs = None if optim is None else split_specs("--optim", optim)
        if specs is not None:
            specs = [name for item in specs for name in expand(item)]
        if as_json:
            _echo_json(memory_json(model, specs))
        else:
            print_memory(model, specs)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def finetune(context: typer.Context) -> None:
    """Fine-tune one model with one optimizer; takes every TrainingArguments flag."""
    with _ending_without_traceback():
        from optbench_llm.postponed import postpone_bitsandbytes

        postpone_bitsandbytes()
        from optbench_llm.finetune import main as run_finetune

        run_finetune(context.args)


@app.command()
def leaderboard(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name, or the path of a .yaml file.")
    ] = "tiny-gpt2",
    optim: Annotated[
        str | None,
        typer.Option(metavar="SPEC,SPEC...", help="These, not the recipe's list; all, wildcards."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the results (default: runs/RECIPE)."),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(metavar="T", help="How rows get their lr: reference, declared or tuned."),
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="E", help="Where trials run: local, or ray (a cluster).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trials at a time (default: 1, which gives the best timings; on a cluster as many"
            " as fit).",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="A", help="auto, HOST:PORT, or local for a cluster of its own."),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(min=0, help="On a cluster (default: one a process where there are any)."),
    ] = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option(min=1, help="On a cluster (default: one a process).")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th row, from the I-th; merge joins parts."),
    ] = None,
    processes_per_trial: Annotated[
        int | None,
        typer.Option(metavar="K", help="Processes of each trial: its batch is divided over them."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Cut the board, fairly, to end within 90s, 30m or 2h."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what it may cost; write nothing.")
    ] = False,
    live_report: Annotated[
        bool, typer.Option("--report", help="Write the page anew as trials finish, not only last.")
    ] = False,
    report_to: Annotated[
        str | None,
        typer.Option(metavar="T,T...", help="Trackers of each trial: trackio, tensorboard, wandb."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Replace the recipe's model.")] = None,
    data: Annotated[str | None, typer.Option(help="Replace the recipe's data source.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Replace the recipe's budget.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replace the recipe's seeds by one.")] = None,
    lr: Annotated[
        str | None, typer.Option(help="One learning rate for all, or 'declared'.")
    ] = None,
) -> None:
    """Compare optimizers on a recipe; a second call does only what is missing."""
    with _ending_without_traceback():
        from optbench_llm.leaderboard.command import run_command
        from optbench_llm.leaderboard.placement import Placement

        code = run_command(
            recipe,
            specs=None if optim is None else split_specs("--optim", optim),
            changes={
                "model": model,
                "data": data,
                "max_steps": max_steps,
                "seed": seed,
                "lr": lr,
                "track": track,
                "processes_per_trial": processes_per_trial,
            },
            store=store,
            placement=Placement(executor, workers, ray_address, cpus_per_trial, gpus_per_trial),
            dry_run=dry_run,
            budget=budget,
            part=part,
            live_report=live_report,
            report_to=[] if report_to is None else split_specs("--report-to", report_to),
        )
    raise typer.Exit(code)


@app.command()
def status(
    store: Annotated[Path, typer.Argument(help="A folder that a leaderboard writes to.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show it until the run has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show how far a leaderboard is: what runs, what is left, what failed; from any terminal."""
    with _ending_without_traceback():
        from optbench_llm.status_page import print_status, read_status

        if follow and as_json:
            raise ValueError("--follow and --json: choose one of them")
        if as_json:
            _echo_json(read_status(store).to_dict())
        else:
            print_status(store, follow=follow)


@app.command()
def report(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE...", help="Folders that leaderboards wrote.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to write (default: the store; of several, ./report)."
        ),
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Write each figure as PNG and SVG as well.")
    ] = False,
) -> None:
    """Write the page of one store or of several: index.html, which needs no network."""
    with _ending_without_traceback():
        from optbench_llm.report.command import write_report

        written = write_report(stores, out, figures=figures)
    for path in reversed(written):
        typer.echo(path)


@app.command()
def push(
    store: Annotated[Path, typer.Argument(help="A folder that a leaderboard wrote.")],
    repo: Annotated[str, typer.Option(metavar="USER/NAME", help="On the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Let nobody else see it.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where what goes up is written (default: STORE/push)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only write it; nothing goes up.")
    ] = False,
) -> None:
    """Share a store: its results as a data set, its page as a static Space."""
    with _ending_without_traceback():
        from optbench_llm.report.push import push as push_store
        from optbench_llm.report.push import write_folders

        folder = out or store / "push"
        if dry_run:
            pushed = write_folders(store, repo, folder)
        else:
            pushed = push_store(store, repo, folder, private=private)
    typer.echo(f"data set: {pushed.dataset}\nspace: {pushed.space}")


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(metavar="A B...", help="Stores to merge.")],
    into: Annotated[
        Path, typer.Option(metavar="C", help="A new folder, or a store, which then grows.")
    ],
) -> None:
    """Put the trials of several stores of one model, data and training into one."""
    with _ending_without_traceback():
        from optbench_llm.leaderboard.merge import merge as merge_stores

        merged = merge_stores(stores, into)
    typer.echo(f"{into} holds {merged.trials} trials; {merged.shared} were in several stores")


@app.command()
def convert(
    old: Annotated[Path, typer.Argument(help="A store that an older version wrote.")],
    into: Annotated[Path, typer.Option(metavar="NEW", help="Folder of the new store.")],
) -> None:
    """Convert a store that an older version wrote; it is only read."""
    with _ending_without_traceback():
        from optbench_llm.leaderboard.convert import convert as convert_store

        count = convert_store(old, into)
    typer.echo(f"{count} trials of {old} are in {into}")


@app.command()
def audit(
    names: Annotated[
        str,
        typer.Argument(metavar="NAME,NAME...", help="Optimizers of ours; all, wildcards."),
    ],
    steps: Annotated[int, typer.Option(help="Steps to compare, and repetitions to time.")] = 20,
    elements: Annotated[
        int | None, typer.Option(help="About how many parameters to time (default: a GPT-2 block).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Step everybody's implementation of an optimizer over the same gradients: do they agree?"""
    with _ending_without_traceback():
        from optbench_llm.audit.page import auditable, run_audits

        specs = [name for item in split_specs("NAME", names) for name in auditable(item)]
        run_audits(specs, steps=steps, elements=elements, as_json=as_json)
