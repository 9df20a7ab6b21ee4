"""Commands that judge: against a real kernel, runs beside each other, the speed of this host."""

import sys
from pathlib import Path

import click

from emulator.commands.words import RUNS, mistakes_of, overriding


@click.command(short_help="Compare with a real kernel's figures.")
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


@click.command(short_help="Put runs side by side, or vary a box and see what flips.")
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


@click.command()
@click.option("--quick", is_flag=True, help="Short runs: a look, not a measurement.")
def bench(quick: bool) -> None:
    """Measure how fast the shipped boxes run on this host."""
    from emulator.bench import run_bench

    sys.exit(run_bench(quick))
