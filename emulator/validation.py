"""``validate``: the cases of a real kernel, run as boxes, and compared figure by figure.

Theory of operation
-------------------
``config/oracle/figures.yaml`` holds what a real kernel did, ``config/oracle/CASE.yaml`` the same
conditions as a box.  Every case runs with several seeds, each run in a process of its own and
``inline``, since CPUs that take turns exist there alone.  The verdict on each figure is that of
:mod:`emulator.report.validate`.  Cases come in batches, as they were measured: ``W1-tuned`` is of
batch ``W1``.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emulator.apart import Errand, Report, run_apart, usable_cpus
from emulator.config import find_config_dir, load_plain
from emulator.engines import INLINE
from emulator.report.figures import Figures
from emulator.report.render import render_comparisons, render_summary
from emulator.report.results import exit_status
from emulator.report.validate import Comparison, RealCase, compare_case, real_case, verdict

#: The case that is also run with CPUs truly in parallel, to show what taking turns changes.
PARALLEL_CASE = "W30"
PARALLEL = "machine.take_turns=false"


class CaseError(Exception):
    """There is no such case; the text lists those there are."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A case, and what differs from its box; only a case without changes is judged."""

    case: RealCase
    label: str = ""
    changes: tuple[str, ...] = ()

    def errands(self, seeds: int) -> list[Errand]:
        """Return the runs of this variant, one per seed."""
        options = [word for change in self.changes for word in ("--set", change)]
        return [
            Errand(f"oracle/{self.case.name}", ("--engine", INLINE, "--seed", str(seed), *options))
            for seed in range(1, seeds + 1)
        ]

    def compare(self, runs: Sequence[Figures]) -> list[Comparison]:
        """Compare runs of this variant with the real figures, under a name that says what it is."""
        name = f"{self.case.name} {self.label}".rstrip()
        return compare_case(replace(self.case, name=name), runs)


def validate_cases(names: Sequence[str], seeds: int, as_json: bool = False) -> int:
    """Run cases (all, if none is named), print the comparison, return the verdict's exit status.

    Raises CaseError for a name that is neither a case nor a batch of cases.
    """
    variants = list(_variants(chosen(load_cases(), names)))
    errands = [errand for variant in variants for errand in variant.errands(seeds)]
    begun_s = time.monotonic()
    reports = run_apart(errands, usable_cpus())
    console = Console()
    judged: list[Comparison] = []
    for batch, members in groupby(variants, key=lambda variant: batch_of(variant.case.name)):
        found: list[Comparison] = []
        for variant in members:
            comparisons = variant.compare(list(figures_of(islice(reports, seeds))))
            found += comparisons
            judged += [] if variant.changes else comparisons
        if not as_json:
            console.print(Text(batch, style="bold"))
            render_comparisons(found, console)
            console.print()
    took_s = time.monotonic() - begun_s
    if as_json:
        print(json.dumps(answer_of(judged, seeds, took_s), indent=2))
    else:
        render_summary(batches_of(judged), console)
        console.print(f"{len(errands)} runs in {took_s / 60:.1f} minutes")
    return exit_status(verdict(judged))


def list_cases(names: Sequence[str]) -> None:
    """Print the cases (all, or those named), batch by batch, each with what its box says it is.

    Raises CaseError for a name that is neither a case nor a batch of cases.
    """
    console = Console()
    cases = chosen(load_cases(), names)
    for batch, members in groupby(cases, key=lambda case: batch_of(case.name)):
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for wraps in (True, True, False):
            table.add_column(no_wrap=wraps)
        console.print(Text(batch, style="bold"))
        for case in members:
            box = load_plain(find_config_dir() / "oracle" / f"{case.name}.yaml")
            about = Text(box["description"], overflow="fold")
            table.add_row(f"  {case.name}", f"{case.window_s:g} s", about)
        console.print(table)


def batches_of(comparisons: Iterable[Comparison]) -> dict[str, dict[str, list[Comparison]]]:
    """Return comparisons by batch and case."""
    batches: dict[str, dict[str, list[Comparison]]] = {}
    for one in comparisons:
        batches.setdefault(batch_of(one.case), {}).setdefault(one.case, []).append(one)
    return batches


def batch_of(case: str) -> str:
    """Return the batch that a case belongs to."""
    return case.partition("-")[0]


def answer_of(comparisons: Sequence[Comparison], seeds: int, took_s: float) -> dict[str, Any]:
    """Return the whole answer as plain data, for ``--json``."""
    cases = {
        name: {"verdict": verdict(rows), "figures": {row.figure.path: _row_of(row) for row in rows}}
        for batch in batches_of(comparisons).values()
        for name, rows in batch.items()
    }
    return {
        "verdict": verdict(comparisons),
        "seeds": seeds,
        "took_s": round(took_s, 1),
        "cases": cases,
    }


def _row_of(one: Comparison) -> dict[str, Any]:
    return {
        "real": one.figure.real,
        "emulated": one.emulated,
        "low": one.low,
        "high": one.high,
        "tolerance": one.figure.tolerance,
        "calibrated": one.figure.calibrated,
        "verdict": one.verdict,
    }


def load_cases() -> dict[str, RealCase]:
    """Return every case with its real figures, by name."""
    data: Mapping[str, Any] = load_plain(find_config_dir() / "oracle" / "figures.yaml")
    return {name: real_case(name, case) for name, case in data["cases"].items()}


def chosen(cases: Mapping[str, RealCase], words: Iterable[str]) -> list[RealCase]:
    """Return the cases that ``words`` name, or all; raise CaseError for a word that names none.

    A word is a case, or a batch: ``W1`` stands for every ``W1-…``.
    """
    found: dict[str, RealCase] = {}
    for word in words:
        named = {n: case for n, case in cases.items() if word in (n, batch_of(n))}
        if not named:
            raise CaseError(f"no case is called {word!r}; there are {', '.join(cases)}")
        found |= named
    return list((found or cases).values())


def figures_of(reports: Iterable[Report]) -> Iterator[Figures]:
    """Yield the figures of the runs that have any, and say on stderr what became of the others."""
    console = Console(stderr=True)
    for report in reports:
        results = report.results
        if results is not None and results["complete"]:
            yield results["figures"]
            continue
        why = report.error or "it left no results"
        console.print(f"{report.errand.box}: {why}", markup=False, highlight=False)


def _variants(cases: Iterable[RealCase]) -> Iterator[Variant]:
    for case in cases:
        yield Variant(case)
        if case.name == PARALLEL_CASE:
            yield Variant(case, "parallel", (PARALLEL,))
