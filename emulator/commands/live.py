"""Commands that speak to a box that runs."""

import sys
from pathlib import Path

import click

from emulator.commands.words import EXIT_FALSE, EXIT_TRUE, RUNS, Failure, mistakes_of
from emulator.language import click_help

#: How the address of a box on another machine begins.
TCP = "tcp://"

KEY_HELP = "client.key of the run directory, for a box on another machine."

CTL_HELP = f"""Send a command to a running box: `ctl latest cpu offline 3`.

RUN is a run directory, a box name (its latest run), `latest`, or HOST:PORT of a box that runs
with --listen; that takes --key.

{click_help()}

Prints the box's answer.  Exit status: 0 done, 1 refused, 2 no such command.
"""


@click.command(
    help=CTL_HELP,
    short_help="Send a command to a running box.",
    context_settings={"ignore_unknown_options": True},
)
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help=KEY_HELP)
@click.argument("run_word", metavar="RUN")
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def ctl(key: Path | None, run_word: str, words: tuple[str, ...]) -> None:
    """Send a command to a running box and print its answer."""
    from emulator.attach import AttachError, send_command, send_remote
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        if key is not None or run_word.startswith(TCP):
            answer = send_remote(run_word, words, key)
        else:
            answer = send_command(run_word, words, RUNS)
    if answer.startswith("error"):
        raise Failure(answer)
    click.echo(answer)
    sys.exit(EXIT_FALSE if answer.startswith("refused") else EXIT_TRUE)


@click.command(short_help="Speak to a box line by line, with completion.")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help=KEY_HELP)
@click.argument("run_word", metavar="RUN")
def shell(key: Path | None, run_word: str) -> None:
    """Speak to a running box line by line: all that `ctl` takes, and `cat`, `why`, `logs`, `help`.

    RUN is a run directory, a box name (its latest run), `latest`, or HOST:PORT of a box that runs with
    --listen; that takes --key, and has no `cat`, `why` and `logs`.  The tabulator completes, lines are
    remembered.  Lines may be piped in as well; the exit status is then that of the last line that went
    wrong, as `ctl` has it.
    """
    from emulator.attach import AttachError
    from emulator.rundir import RunDirError
    from emulator.shell import run_shell

    with mistakes_of(AttachError, RunDirError):
        sys.exit(run_shell(run_word, RUNS, key))


@click.command(short_help="Say how far a running box is, until it ends.")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help=KEY_HELP)
@click.argument("run_word", metavar="RUN")
def observe(key: Path | None, run_word: str) -> None:
    """Print how far a running box is and who is waited for, a line for each time that it says so.

    RUN is a run directory, a box name (its latest run), `latest`, or with --key HOST:PORT of a box that
    runs with --listen.  The box does not notice.  It ends when nothing was heard for 5 s.
    """
    from emulator.attach import AttachError, observed_lines
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        for line in observed_lines(run_word, key, RUNS):
            click.echo(line)


@click.command("replay", short_help="Make a run again with its commands; are the rings the same?")
@click.argument("run_word", metavar="RUN")
@click.option(
    "--engine",
    type=click.Choice(["processes", "inline"]),
    help="In which engine; default: that of the run.",
)
@click.option("--strict", is_flag=True, help="With inline: pack and unpack every message.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the repetition there, for `logs`, `cat` and `why`; it must be new or empty.",
)
@click.option("--quiet", is_flag=True, help="Only say whether the rings are the same.")
def replay_run(
    run_word: str, engine: str | None, strict: bool, out: Path | None, quiet: bool
) -> None:
    """Make a run again, with the commands in its `commands.yaml`, and compare all rings.

    RUN is a run directory, a box name (its latest run) or `latest`.  Exit status: 0 the rings are
    identical, byte for byte; 1 they are not, and the first records that differ are shown; 2 the run
    cannot be made again.
    """
    from datetime import UTC, datetime

    from emulator.apart import scratch_directory
    from emulator.replay import ReplayError, ReplayRequest, replay
    from emulator.rundir import RunDirError, create_run_directory

    with mistakes_of(RunDirError, ReplayError), scratch_directory() as scratch:
        if out is not None:
            create_run_directory("", datetime.now(UTC), RUNS, out)
        status = replay(ReplayRequest(run_word, engine, strict, out or scratch, quiet), RUNS)
    sys.exit(status)
