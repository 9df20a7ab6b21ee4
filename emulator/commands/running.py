"""Commands that run a box, and that speak to one that runs."""

import sys
from pathlib import Path

import click

from emulator.commands.words import EXIT_FALSE, EXIT_TRUE, RUNS, Failure, mistakes_of, overriding


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
) -> None:
    """Run BOX (a name that `boxes` lists, or a file) and say what happened and why."""
    from emulator.config import BoxError
    from emulator.rundir import RunDirError
    from emulator.session import Request, SessionError, run_box

    request = Request(box, overrides, seed, duration, engine, strict, out, quiet, logs)
    with mistakes_of(BoxError, RunDirError, SessionError):
        status = run_box(request, RUNS)
    sys.exit(status)


@click.command(
    short_help="Send a command to a running box.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("run_word", metavar="RUN")
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def ctl(run_word: str, words: tuple[str, ...]) -> None:
    """Send a command to a running box: `ctl latest cpu offline 3`.

    RUN is a run directory, a box name (its latest run) or `latest`.  Commands:

    \b
    cpu offline N             walk the hotplug steps down
    cpu online N              and up again
    cpu kill N                offline, then end the CPU's process for good
    cpu load N --percent P    a program that keeps CPU N busy P % of the time; 0 removes it
    sysctl NAME=VALUE         such as kernel.sched_wakeup_granularity_ns=4000000
    task affine NAME CPULIST  the first task of that name may run on these CPUs only
    disk NAME error|drop|lose-irq [sector=A-B] [every=N] [count=K] [medium]
    disk NAME busy DURATION   the driver cannot queue for so long
    disk NAME slow F DURATION what is rung within it takes F times as long
    disk NAME reset           all requests are given back and sent again

    N is a CPU, or of:TASK: the CPU on which the first task of that name is then.
    Prints the box's answer.  Exit status: 0 done, 1 refused, 2 no such command.
    """
    from emulator.attach import AttachError, send_command
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        answer = send_command(run_word, words, RUNS)
    if answer.startswith("error"):
        raise Failure(answer)
    click.echo(answer)
    sys.exit(EXIT_FALSE if answer.startswith("refused") else EXIT_TRUE)
