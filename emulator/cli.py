"""The command line: one function per command, each a thin call into the room that does it.

Nothing heavy is imported before a command needs it, so that ``smpbox boxes`` answers at once.
Exit status of every command: 0 the verdict is true, 1 it is false, 2 it is unknown or the command
was not understood (a wrong option, a mistake in the box file, no such run).  For ``ctl``: 0 it is
done, 1 the box refused, 2 the box does not know such a command.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from emulator import __version__
from emulator.types import NEVER
from emulator.units import duration_parse

EXIT_TRUE = 0
EXIT_FALSE = 1
EXIT_UNKNOWN = 2

FIO_FORMATS = ("normal", "json", "json+", "terse")

#: Where runs are kept, seen from where the command is given.
RUNS = Path("runs")


def main() -> None:
    """Run the command line of this process and exit with its status."""
    if sys.flags.optimize:
        click.echo("smpbox: refuses to run under python -O: its checks are part of it", err=True)
        sys.exit(EXIT_UNKNOWN)
    cli(prog_name="smpbox")


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


def interval_ns(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Return the ns of an interval; a bare number is of seconds, as sysstat has it."""
    try:
        return duration_parse(f"{value}s" if value.replace(".", "", 1).isdigit() else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def fio_formats(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the formats of fio's --output-format, which may be several."""
    names = tuple(value.split(","))
    for name in names:
        if name not in FIO_FORMATS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(FIO_FORMATS)}")
    return names


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


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 passed, 1 failed, 2 no verdict, or the command was not understood.",
)
@click.version_option(__version__, prog_name="smpbox")
def cli() -> None:
    """An emulated N-CPU Linux box: see what the scheduler does to your IO, and why."""


# -- Boxes --------------------------------------------------------------------------------------


@cli.command()
def boxes() -> None:
    """List the boxes that ship, one line each."""
    from emulator.config import list_boxes

    listed = list_boxes()
    width = max((len(name) for name, _ in listed), default=0)
    for name, description in listed:
        click.echo(f"{name:<{width}}  {description}")


@cli.command(short_help="Validate a box and print it, resolved.")
@click.argument("box")
@overriding
def check(box: str, overrides: tuple[str, ...]) -> None:
    """Validate BOX (a name or a file) and print it with every default spelled out."""
    from emulator.config import BoxError, load_box
    from emulator.describe import describe

    with mistakes_of(BoxError):
        click.echo(describe(load_box(box, overrides)), nl=False)


@cli.command(short_help="Ask a question about some boxes; --explain answers it.")
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


@cli.command(short_help="List the remedies that a box can try.")
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


# -- Running ------------------------------------------------------------------------------------


@cli.command(short_help="Run a box; say what happened and why.")
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


@cli.command(
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


# -- Reading ------------------------------------------------------------------------------------


@cli.command(short_help="Print what one CPU did, live too.")
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


@cli.command(short_help="Say why a task was moved, or had to wait.")
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


@cli.command("cat", short_help="Print a file of /proc or /sys of a box.")
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


@cli.command("fio", short_help="Print what fio would have said of its jobs.")
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


@cli.command(short_help="Print what iostat would have printed of a run.")
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


@cli.command(short_help="Print what mpstat would have printed of a run.")
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


@cli.command(short_help="Write block events for blkparse and btt.")
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


# -- Judging ------------------------------------------------------------------------------------


@cli.command(short_help="Compare with a real kernel's figures.")
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs per case."
)
@click.option("--list", "listing", is_flag=True, help="Only say which cases there are.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def validate(cases: tuple[str, ...], seeds: int, listing: bool, as_json: bool) -> None:
    """Compare emulated cases with the figures of a real kernel; all cases if none is named.

    CASE is a case such as W1-tuned, or a batch of them such as W1.
    """
    from emulator.validation import CaseError, list_cases, validate_cases

    with mistakes_of(CaseError):
        if listing:
            list_cases(cases)
            return
        status = validate_cases(cases, seeds, as_json)
    sys.exit(status)


@cli.command(short_help="Put runs side by side, or vary a box and see what flips.")
@click.argument("words", metavar="RUN...|BOX...", nargs=-1, required=True)
@click.option(
    "--vary",
    "axes",
    multiple=True,
    metavar="KEY=VALUES",
    help="Run each BOX once per value; several of these span all combinations.",
)
@overriding
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Runs per variant."
)
@click.option(
    "--for", "duration", metavar="TIME", help="Emulated time to run, such as 5s or 1500ms."
)
@click.option(
    "--figures", multiple=True, metavar="PATHS", help="Figures of results.json to compare."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the comparison there too.",
)
@click.option(
    "--markdown",
    "markdown_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="And as tables in Markdown there.",
)
def compare(
    words: tuple[str, ...],
    axes: tuple[str, ...],
    overrides: tuple[str, ...],
    seeds: int,
    duration: str | None,
    figures: tuple[str, ...],
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Put runs side by side; or run boxes in variants, and say where their behaviour flips.

    VALUES are separated by commas; LOW..HIGH or LOW..HIGH:STEP is a range:

    \b
    --vary kernel.version=5.4,5.15,6.12
    --vary kernel.policies=none,kthread-stack,kthread-stack+preempt-kthread
    --vary kernel.completion=all
    --vary machine.cpus=2..8:2
    --vary kernel.sysctl.kernel.sched_wakeup_granularity_ns=1ms..20ms
    """
    from emulator.compare import CompareError, CompareRequest
    from emulator.compare import compare as make_comparison
    from emulator.config import BoxError
    from emulator.rundir import RunDirError

    request = CompareRequest(
        words, axes, overrides, seeds, duration, figures, json_file, markdown_file
    )
    with mistakes_of(BoxError, CompareError, RunDirError):
        make_comparison(request, RUNS)


@cli.command()
@click.option("--quick", is_flag=True, help="Short runs: a look, not a measurement.")
def bench(quick: bool) -> None:
    """Measure how fast the shipped boxes run on this host."""
    from emulator.bench import run_bench

    sys.exit(run_bench(quick))


if __name__ == "__main__":
    main()
