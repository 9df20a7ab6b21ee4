"""Commands that run a box."""

import sys
from pathlib import Path

import click

from emulator.commands.words import RUNS, mistakes_of, overriding


@click.command(short_help="Run a box; say what happened and why.")
@click.argument("box")
@overriding
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all randomness in the run.")
@click.option(
    "--for", "duration", metavar="TIME", help="Emulated time to run, such as 5s or 300ms."
)
@click.option(
    "--engine",
    type=click.Choice(["processes", "inline"]),
    help="One process per CPU (the default), or all in this one; both leave the same rings.",
)
@click.option("--strict", is_flag=True, help="With inline: pack and unpack every message.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run directory itself; it must be new or empty. Default: runs/BOX/UTC.",
)
@click.option("--quiet", is_flag=True, help="No progress and no result on the terminal.")
@click.option("--logs/--no-logs", default=True, help="Render cpuN.log when the run is over.")
@click.option("--paused", is_flag=True, help="Stand still at 0 until `ctl` lets the box go on.")
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help="Take commands over TCP too, of who has client.key of the run directory.",
)
def run(
    box: str,
    overrides: tuple[str, ...],
    seed: int | None,
    duration: str | None,
    engine: str | None,
    strict: bool,
    out: Path | None,
    quiet: bool,
    logs: bool,
    paused: bool,
    listen: str,
) -> None:
    """Run BOX (a name that `boxes` lists, or a file) and say what happened and why."""
    from emulator.config import BoxError
    from emulator.rundir import RunDirError
    from emulator.session import Request, SessionError, run_box

    request = Request(
        box, overrides, seed, duration, engine, strict, out, quiet, logs, paused, listen=listen
    )
    with mistakes_of(BoxError, RunDirError, SessionError):
        status = run_box(request, RUNS)
    sys.exit(status)


@click.command(short_help="Let a run that was killed go on to its end.")
@click.argument("run_word", metavar="RUN")
@click.option("--quiet", is_flag=True, help="No progress and no result on the terminal.")
@click.option("--logs/--no-logs", default=True, help="Render cpuN.log when the run is over.")
def resume(run_word: str, quiet: bool, logs: bool) -> None:
    """Let a run that was killed, or stopped by Ctrl-C, go on from its last checkpoint to its end.

    The rings and figures become those of a run that nobody disturbed.  RUN is a run directory, a box
    name (its latest run) or `latest`.
    """
    from emulator.resume import ResumeError, resume_run
    from emulator.rundir import RunDirError
    from emulator.session import SessionError

    with mistakes_of(ResumeError, RunDirError, SessionError):
        status = resume_run(run_word, RUNS, quiet=quiet, logs=logs)
    sys.exit(status)
