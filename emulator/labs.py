"""Labs: a question about a few boxes, to be answered first, and what the runs then say.

Theory of operation
-------------------
A lab is a YAML file of ``config/labs``: a text, a few runs (a box, what is set otherwise), the figures
that answer the question, what to predict, and an explanation.  Without ``--explain`` the table of
figures has question marks: predict first.  With it the runs are made, the table is filled, the
explanation is printed with the measured figures in it (``{tuned.iops}``), and what the lab says must
come out is checked, so that a lab cannot tell what is no longer true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emulator.apart import Errand, Report, run_apart, usable_cpus
from emulator.boxfile.kernel import did_you_mean
from emulator.config import find_config_dir, load_plain
from emulator.engines import INLINE
from emulator.report.figures import Figures, lookup
from emulator.report.results import check_expectations, exit_status

UNKNOWN = "?"
#: A figure in a text: the name of a run, a dot, the path of the figure.
_PLACE = re.compile(r"\{([^.{}]+)\.([^{}]+)\}")


class LabError(Exception):
    """There is no such lab; the text lists those there are."""


@dataclass(frozen=True, slots=True)
class LabRun:
    """One column: a box, and what differs from it."""

    name: str
    box: str
    changes: tuple[str, ...]
    duration: str

    def errand(self) -> Errand:
        """Return the run to make."""
        options = [word for change in self.changes for word in ("--set", change)]
        return Errand(self.box, ("--engine", INLINE, "--for", self.duration, *options))

    def command(self) -> str:
        """Return the command that makes this run by hand."""
        sets = "".join(f" --set {change}" for change in self.changes)
        return f"smpbox run {self.box} --for {self.duration}{sets}"


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab as its file says it."""

    name: str
    title: str
    text: str
    runs: tuple[LabRun, ...]
    figures: dict[str, str]  #: path in results.json: what people call it
    ask: tuple[str, ...]
    explain: str
    expect: tuple[dict[str, Any], ...]  #: run, figure, and min, max or equals


def list_labs() -> list[Lab]:
    """Return every lab that ships, by name."""
    return [_load(file) for file in sorted((find_config_dir() / "labs").glob("*.yaml"))]


def load_lab(name: str) -> Lab:
    """Return a lab by name; raise LabError if there is none."""
    file = find_config_dir() / "labs" / f"{name}.yaml"
    if not file.is_file():
        names = [one.stem for one in file.parent.glob("*.yaml")]
        raise LabError(f"there is no lab {name!r}{did_you_mean(name, names)}; `lab` lists them")
    return _load(file)


def ask(lab: Lab, console: Console) -> None:
    """Print the question, with an empty table to be filled by the reader."""
    _print_question(lab, console)
    _print_table(lab, {}, console)
    console.print()
    for number, question in enumerate(lab.ask, 1):
        console.print(f"{number}. {question.strip()}", markup=False, highlight=False)
    console.print(f"\nThen: smpbox lab {lab.name} --explain", highlight=False)


def explain(lab: Lab, console: Console) -> int:
    """Make the runs, fill the table, explain; return the exit status."""
    _print_question(lab, console)
    reports = list(run_apart([run.errand() for run in lab.runs], usable_cpus()))
    found = dict(_figures(lab, reports))
    _print_table(lab, found, console)
    failed = [f"{report.errand.box}: {report.error}" for report in reports if not report.results]
    for line in failed:
        console.print(line, markup=False, highlight=False)
    if failed:
        return exit_status(None)
    console.print()
    _print_text(filled(lab.explain, found), console)
    for run in lab.runs:
        console.print(run.command(), markup=False, highlight=False, soft_wrap=True)
    return exit_status(_verdict(lab, found, console))


def filled(text: str, found: Mapping[str, Figures]) -> str:
    """Return a text with every ``{run.figure}`` replaced by what was measured."""
    return _PLACE.sub(lambda match: shown(lookup(found[match[1]], match[2])), text)


def shown(value: Any) -> str:
    """Return a figure as people read it."""
    if value is None:
        return "-"
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:,.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _verdict(lab: Lab, found: Mapping[str, Figures], console: Console) -> bool:
    held = True
    for expectation in lab.expect:
        run = expectation["run"]
        (check,) = check_expectations(found[run], [expectation])
        if not check["ok"]:
            held = False
            what = f"{run}: {check['figure']} is {shown(check['value'])}, not {check['expected']}"
            console.print(f"not as this lab says: {what}", markup=False, highlight=False)
    return held


def _figures(lab: Lab, reports: Sequence[Report]) -> Iterator[tuple[str, Figures]]:
    for run, report in zip(lab.runs, reports, strict=True):
        if report.results is not None:
            yield run.name, report.results["figures"]


def _print_question(lab: Lab, console: Console) -> None:
    console.print(f"[bold]{escape(lab.title)}[/bold]\n", highlight=False)
    _print_text(lab.text, console)


# Paragraphs, as wide as the terminal is.
def _print_text(text: str, console: Console) -> None:
    for paragraph in text.strip().split("\n\n"):
        console.print(" ".join(paragraph.split()), markup=False, highlight=False)
        console.print()


def _print_table(lab: Lab, found: Mapping[str, Figures], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for run in lab.runs:
        table.add_column(run.name, justify="right")
    for path, title in lab.figures.items():
        cells = [
            shown(lookup(found[run.name], path)) if run.name in found else UNKNOWN
            for run in lab.runs
        ]
        table.add_row(title, *cells)
    console.print(table)


def _load(file: Path) -> Lab:
    data: Mapping[str, Any] = load_plain(file)
    runs = tuple(
        LabRun(name, run["box"], tuple(run.get("set", ())), run["for"])
        for name, run in data["runs"].items()
    )
    return Lab(
        file.stem,
        data["title"],
        data["text"],
        runs,
        dict(data["figures"]),
        tuple(data["ask"]),
        data["explain"],
        tuple(data["expect"]),
    )
