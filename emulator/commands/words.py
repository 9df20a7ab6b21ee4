"""What several commands have in common: exit statuses, mistakes, options, where runs are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from emulator.types import NEVER
from emulator.units import duration_parse

EXIT_TRUE = 0
EXIT_FALSE = 1
EXIT_UNKNOWN = 2

#: Where runs are kept, seen from where the command is given.
RUNS = Path("runs")


class Failure(click.ClickException):
    """A mistake of the user: its text goes to stderr as it is, and the exit status is 2."""

    exit_code = EXIT_UNKNOWN

    def show(self, file: object = None) -> None:
        """Print the text alone: the errors of a box file begin with their own file and line."""
        click.echo(self.message, err=True)


def time_ns(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int:
    """Return the ns of an emulated time as people write it; without one, the end of all time."""
    try:
        return NEVER if value is None else duration_parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@contextmanager
def mistakes_of(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, which are the user's to mend, into a :class:`Failure`."""
    try:
        yield
    except kinds as error:
        raise Failure(str(error)) from error


overriding = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the box file, such as machine.cpus=16.",
)
