"""Commands that speak to a box that runs."""

import sys

import click

from emulator.commands.language import click_help
from emulator.commands.words import EXIT_FALSE, EXIT_TRUE, RUNS, Failure, mistakes_of

CTL_HELP = f"""Send a command to a running box: `ctl latest cpu offline 3`.

RUN is a run directory, a box name (its latest run) or `latest`.

{click_help()}

Prints the box's answer.  Exit status: 0 done, 1 refused, 2 no such command.
"""


@click.command(
    help=CTL_HELP,
    short_help="Send a command to a running box.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("run_word", metavar="RUN")
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def ctl(run_word: str, words: tuple[str, ...]) -> None:
    """Send a command to a running box and print its answer."""
    from emulator.attach import AttachError, send_command
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        answer = send_command(run_word, words, RUNS)
    if answer.startswith("error"):
        raise Failure(answer)
    click.echo(answer)
    sys.exit(EXIT_FALSE if answer.startswith("refused") else EXIT_TRUE)
