"""Commands that print a run as fio, sysstat and blktrace would."""

from collections.abc import Callable
from pathlib import Path

import click

from emulator.commands.words import RUNS, mistakes_of, time_ns
from emulator.units import duration_parse

FIO_FORMATS = ("normal", "json", "json+", "terse")


def fio_formats(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the formats of fio's --output-format, which may be several."""
    names = tuple(value.split(","))
    for name in names:
        if name not in FIO_FORMATS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(FIO_FORMATS)}")
    return names


@click.command("fio", short_help="Print what fio would have said of its jobs.")
@click.argument("run_word", metavar="RUN")
@click.option(
    "--output-format",
    "formats",
    default="normal",
    show_default=True,
    callback=fio_formats,
    metavar="FORMATS",
    help="Of normal, json, json+ and terse; several separated by commas.",
)
@click.option("--job", metavar="NAME", default="", help="Only the job of this name.")
def fio_output(run_word: str, formats: tuple[str, ...], job: str) -> None:
    """Print what fio itself would have printed for the jobs of a run.

    RUN is a run directory, a box name (its latest run) or `latest`; `fio.json` in the run directory
    is the same as JSON.
    """
    from emulator.attach import AttachError, FioRequest, fio_text
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        click.echo(fio_text(FioRequest(run_word, formats, job), RUNS), nl=False)


def interval_ns(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Return the ns of an interval; a bare number is of seconds, as sysstat has it."""
    try:
        return duration_parse(f"{value}s" if value.replace(".", "", 1).isdigit() else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def interval_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what ``iostat`` and ``mpstat`` have in common to a command."""
    options = (
        click.argument("run_word", metavar="RUN"),
        click.argument("interval", metavar="[INTERVAL]", default="0", callback=interval_ns),
        click.argument("count", metavar="[COUNT]", default=0, type=click.IntRange(0)),
        click.option("--from", "start", metavar="TIME", default="0s", callback=time_ns),
        click.option("--to", "end", metavar="TIME", callback=time_ns, help="Emulated times."),
        click.option(
            "-o", "form", type=click.Choice(["JSON"], case_sensitive=False), help="Print JSON."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Print what iostat would have printed of a run.")
@interval_options
@click.option(
    "-x", "extended", is_flag=True, help="Extended figures of disks: waits, sizes, %util."
)
@click.option("-c", "cpu", is_flag=True, help="Only CPU time.")
@click.option("-d", "disks", is_flag=True, help="Only disks.")
@click.option("-t", "stamped", is_flag=True, help="Print the box's time of each report.")
def iostat(
    run_word: str,
    interval: int,
    count: int,
    start: int,
    end: int,
    form: str | None,
    extended: bool,
    cpu: bool,
    disks: bool,
    stamped: bool,
) -> None:
    """Print CPU time and what each disk did as sysstat's iostat prints it.

    INTERVAL is emulated time, such as 100ms, or a number of seconds; without it the whole run is one
    report.  Of a box that runs, reports come as they are over.  RUN is a run directory, a box name
    (its latest run) or `latest`.
    """
    from emulator.attach import AttachError, StatRequest, iostat_text
    from emulator.report.sysstat.iostat import Shape
    from emulator.rundir import RunDirError

    end = min(end, start + interval * count) if interval and count else end
    shape = Shape(extended, cpu or not disks, disks or not cpu, stamped, form is not None)
    with mistakes_of(AttachError, RunDirError):
        for text in iostat_text(StatRequest(run_word, interval, start, end), shape, RUNS):
            click.echo(text, nl=False)


@click.command(short_help="Print what mpstat would have printed of a run.")
@interval_options
@click.option("-P", "cpus", metavar="CPUS", default="", help="Of each CPU: ALL, or such as 0,2-3.")
@click.option(
    "-I",
    "interrupts",
    type=click.Choice(["SUM", "CPU", "SCPU", "ALL"], case_sensitive=False),
    help="Interrupts: together, by line, softirqs, all of these.",
)
def mpstat(
    run_word: str,
    interval: int,
    count: int,
    start: int,
    end: int,
    form: str | None,
    cpus: str,
    interrupts: str | None,
) -> None:
    """Print CPU time and interrupts of each CPU as sysstat's mpstat prints them.

    INTERVAL is emulated time, such as 100ms, or a number of seconds; without it the whole run is one
    report.  Of a box that runs, reports come as they are over.  RUN is a run directory, a box name
    (its latest run) or `latest`.
    """
    from emulator.attach import AttachError, StatRequest, mpstat_text
    from emulator.rundir import RunDirError

    end = min(end, start + interval * count) if interval and count else end
    with mistakes_of(AttachError, RunDirError, ValueError):
        request = StatRequest(run_word, interval, start, end)
        for text in mpstat_text(request, cpus, interrupts, form is not None, RUNS):
            click.echo(text, nl=False)


@click.command(short_help="Write block events for blkparse and btt.")
@click.argument("run_word", metavar="RUN")
@click.option(
    "--dir",
    "target",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to write.",
)
def blktrace(run_word: str, target: Path) -> None:
    """Write the inserts, issues and completions of a run as blktrace writes them.

    There is a file per disk and CPU, such as sda.blktrace.0: `blkparse -i sda` reads them.  RUN is a run
    directory, a box name (its latest run) or `latest`.
    """
    from emulator.attach import AttachError, write_blktrace
    from emulator.rundir import RunDirError

    with mistakes_of(AttachError, RunDirError):
        names = write_blktrace(run_word, target, RUNS)
    disks = sorted({name.partition(".")[0] for name in names})
    for disk in disks:
        click.echo(f"blkparse -D {target} -i {disk}")
