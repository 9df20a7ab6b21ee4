"""The command line: the program and its commands.

Exit status of every command: 0 the verdict is true, 1 it is false, 2 it is unknown or the command
was not understood (a wrong option, a mistake in the box file, no such run).  For ``ctl``: 0 it is
done, 1 the box refused, 2 the box does not know such a command.
"""

import sys

import click

from emulator import __version__
from emulator.commands import boxes, judging, live, reading, running, tools
from emulator.commands.words import EXIT_UNKNOWN


def main() -> None:
    """Run the command line of this process and exit with its status."""
    if sys.flags.optimize:
        click.echo("smpbox: refuses to run under python -O: its checks are part of it", err=True)
        sys.exit(EXIT_UNKNOWN)
    cli(prog_name="smpbox")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 passed, 1 failed, 2 no verdict, or the command was not understood.",
)
@click.version_option(__version__, prog_name="smpbox")
def cli() -> None:
    """An emulated N-CPU Linux box: see what the scheduler does to your IO, and why."""


for command in (
    boxes.boxes,
    boxes.check,
    boxes.lab,
    boxes.policies,
    running.run,
    running.resume,
    live.ctl,
    live.shell,
    live.observe,
    live.replay_run,
    reading.runs,
    reading.logs,
    reading.why,
    reading.cat_file,
    tools.fio_output,
    tools.iostat,
    tools.mpstat,
    tools.blktrace,
    judging.validate,
    judging.compare,
    judging.bench,
):
    cli.add_command(command)


if __name__ == "__main__":
    main()
