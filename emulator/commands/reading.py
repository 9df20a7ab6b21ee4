"""Commands that read a run: a CPU's log, why something happened, a file of /proc."""

import sys
from pathlib import Path

import click

from emulator.commands.words import EXIT_TRUE, RUNS, mistakes_of, time_ns
from emulator.types import NEVER


@click.command(short_help="List the runs there are.")
def runs() -> None:
    """List the runs below `runs/`: where each is, and how it goes or ended."""
    from emulator.rundir import list_runs

    for path, state in list_runs(RUNS):
        click.echo(f"{state:<24}{path}")


@click.command(short_help="Print what one CPU did, live too.")
@click.argument("run_word", metavar="RUN")
@click.option("--cpu", type=click.IntRange(min=0), required=True, help="Which emulated CPU.")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="NAME",
    help="Only this tracepoint; may be repeated.",
)
@click.option(
    "--from",
    "start",
    metavar="TIME",
    default="0s",
    callback=time_ns,
    help="Emulated time at which to begin, such as 1.5s or 1500ms.",
)
@click.option(
    "--to", "end", metavar="TIME", callback=time_ns, help="Emulated time at which to end."
)
@click.option("--follow", is_flag=True, help="Go on while the box runs.")
@click.option(
    "--flags", is_flag=True, help="With irqs-off, need-resched and context, as tracefs shows them."
)
def logs(
    run_word: str,
    cpu: int,
    events: tuple[str, ...],
    start: int,
    end: int,
    follow: bool,
    flags: bool,
) -> None:
    """Print what one CPU did, as ftrace text; works while the box runs.

    RUN is a run directory, a box name (its latest run) or `latest`.
    """
    from emulator.attach import AttachError, LogRequest, log_lines
    from emulator.rundir import RunDirError

    if end <= start:
        raise click.BadParameter("it is not later than --from", param_hint="--to")
    request = LogRequest(run_word, cpu, events, start, end, follow, flags)
    try:
        with mistakes_of(AttachError, RunDirError):
            for line in log_lines(request, RUNS):
                click.echo(line)
    except KeyboardInterrupt:
        sys.exit(EXIT_TRUE)


@click.command(short_help="Say why a task was moved, or had to wait.")
@click.argument("run_word", metavar="RUN")
@click.option("--pid", type=click.IntRange(min=1), help="The task, by its pid.")
@click.option(
    "--task", metavar="NAME", default="", help="The first task of that name, such as fio."
)
@click.option(
    "--at",
    metavar="TIME",
    callback=time_ns,
    help="Explain what was last done to it up to this emulated time, such as 1.5s.",
)
def why(run_word: str, pid: int | None, task: str, at: int) -> None:
    """Say why a task was last moved, and what led to that, decision by decision.

    With --at, what was last done to it up to then: a move, a placement, a preemption, or that it
    waits.  Works while the box runs.  RUN is a run directory, a box name (its latest run) or
    `latest`.
    """
    from shutil import get_terminal_size

    from emulator.attach import AttachError, WhyRequest, why_lines
    from emulator.rundir import RunDirError

    if (pid is None) == (not task):
        raise click.UsageError("name the task by --pid or by --task")
    request = WhyRequest(run_word, pid, task, None if at == NEVER else at)
    with mistakes_of(AttachError, RunDirError):
        for line in why_lines(request, RUNS, get_terminal_size().columns):
            click.echo(line)


@click.command("cat", short_help="Print a file of /proc or /sys of a box.")
@click.argument("run_word", metavar="RUN")
@click.argument("path", required=False, default="")
@click.option(
    "--at", metavar="TIME", callback=time_ns, help="As of this emulated time, such as 1.5s."
)
@click.option(
    "--tree",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Write all files below it instead, for tools that take a /proc elsewhere.",
)
def cat_file(run_word: str, path: str, at: int, tree: Path | None) -> None:
    """Print a file of /proc or /sys as the box has it: `cat latest /proc/interrupts`.

    Without PATH: list what there is.  Works while the box runs, up to what it has recorded so far.
    RUN is a run directory, a box name (its latest run) or `latest`.
    """
    from shutil import get_terminal_size

    from emulator.attach import AttachError, CatRequest, cat, copy_tree
    from emulator.rundir import RunDirError

    request = CatRequest(run_word, path, None if at == NEVER else at)
    with mistakes_of(AttachError, RunDirError):
        if tree is not None:
            click.echo(f"{copy_tree(request, RUNS, tree)} files are in {tree}")
            return
        click.echo(cat(request, RUNS, get_terminal_size().columns), nl=False)
