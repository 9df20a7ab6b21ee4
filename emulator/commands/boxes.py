"""Commands about boxes and what they may be made of: nothing runs, but a lab may."""

import sys

import click

from emulator.commands.words import mistakes_of, overriding


@click.command()
def boxes() -> None:
    """List the boxes that ship, one line each."""
    from emulator.config import list_boxes

    listed = list_boxes()
    width = max((len(name) for name, _ in listed), default=0)
    for name, description in listed:
        click.echo(f"{name:<{width}}  {description}")


@click.command(short_help="Validate a box and print it, resolved.")
@click.argument("box")
@overriding
def check(box: str, overrides: tuple[str, ...]) -> None:
    """Validate BOX (a name or a file) and print it with every default spelled out."""
    from emulator.config import BoxError, load_box
    from emulator.describe import describe

    with mistakes_of(BoxError):
        click.echo(describe(load_box(box, overrides)), nl=False)


@click.command(short_help="Ask a question about some boxes; --explain answers it.")
@click.argument("name", required=False)
@click.option("--explain", "explaining", is_flag=True, help="Make the runs and tell what they say.")
def lab(name: str | None, explaining: bool) -> None:
    """Show a lab: a question to answer first; then `--explain` runs it and says why.

    Without NAME: list the labs.
    """
    from rich.console import Console

    from emulator.labs import LabError, ask, explain, list_labs, load_lab

    if name is None:
        labs = list_labs()
        width = max((len(one.name) for one in labs), default=0)
        for one in labs:
            click.echo(f"{one.name:<{width}}  {one.title}")
        return
    with mistakes_of(LabError):
        chosen = load_lab(name)
    if not explaining:
        ask(chosen, Console())
        return
    sys.exit(explain(chosen, Console()))


@click.command(short_help="List the remedies that a box can try.")
@click.option("--versions", is_flag=True, help="And which kernel version goes by which rule.")
def policies(versions: bool) -> None:
    """List the remedies of the thread: what each changes, what it sets, what was reported.

    First those that change rules, then those that change where a finished write's work goes.
    """
    from shutil import get_terminal_size

    from emulator.report.remedies import completion_lines, policy_lines, version_lines

    width = get_terminal_size().columns
    for line in policy_lines(width):
        click.echo(line)
    click.echo("")
    for line in completion_lines(width):
        click.echo(line)
    if versions:
        click.echo("")
        for line in version_lines(width):
            click.echo(line)
