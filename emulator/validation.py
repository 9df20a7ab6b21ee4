"""``validate``: the cases of a real kernel, run as boxes, and compared figure by figure.

Theory of operation
-------------------
``config/oracle/figures.yaml`` holds what a real kernel did, ``config/oracle/CASE.yaml`` the same
conditions as a box.  Every case runs with several seeds, each run in a process of its own and
``inline``, since CPUs that take turns exist there alone.  The verdict on each figure is that of
:mod:`emulator.report.validate`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from rich.console import Console

from emulator.apart import Errand, Report, run_apart, usable_cpus
from emulator.config import find_config_dir, load_plain
from emulator.engines import INLINE
from emulator.report.figures import Figures
from emulator.report.render import render_comparisons
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


def validate_cases(names: Sequence[str], seeds: int) -> int:
    """Run cases (all, if none is named), print the comparison, return the verdict's exit status.

    Raises CaseError for a name that is neither a case nor a batch of cases.
    """
    variants = list(_variants(chosen(load_cases(), names)))
    errands = [errand for variant in variants for errand in variant.errands(seeds)]
    reports = run_apart(errands, usable_cpus())
    console = Console()
    judged: list[Comparison] = []
    for variant in variants:
        runs = list(figures_of(islice(reports, seeds)))
        comparisons = variant.compare(runs)
        render_comparisons(comparisons, console)
        judged += [] if variant.changes else comparisons
    return exit_status(verdict(judged))


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
        named = {n: case for n, case in cases.items() if word in (n, n.partition("-")[0])}
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
