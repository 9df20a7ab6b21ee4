"""``compare``: runs side by side, or boxes in all the variants that the axes given span.

Theory of operation
-------------------
An axis is ``KEY=VALUES``: a key of the box file and what it is set to, a column each; several axes
span their cross product.  Values are separated by commas; ``LOW..HIGH``, with ``:STEP`` if need be,
is a range of numbers or durations.  Three kinds of key are written as people say them: versions
without quotes, sysctls in ns as durations, and policies as names joined by ``+``, ``none`` being
none.  ``kernel.completion=all`` is every completion policy, and ``unless-saturated`` with every
signal.  Several boxes are one axis more.

All variants are checked before the first is run.  Each runs ``inline`` in a process of its own,
once per seed, and leaves all but its rings in ``runs/compare/UTC``.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, product
from pathlib import Path

from rich.console import Console

from emulator.apart import Errand, Report, run_apart, usable_cpus
from emulator.completion import COMPLETIONS, DEFAULT_SIGNAL, SIGNALS
from emulator.config import load_box
from emulator.engines import INLINE
from emulator.report.compare import (
    BOX,
    FIGURES,
    Axis,
    Column,
    Comparison,
    as_plain,
    figure_of,
)
from emulator.report.markdown import as_markdown
from emulator.report.side_by_side import render_comparison
from emulator.rundir import RESULTS, create_stamped, resolve_run
from emulator.units import duration_format, duration_parse

#: More runs than this are a mistake rather than a question.
RUNS_MAX = 1000

VERSION = "kernel.version"
POLICIES = "kernel.policies"
COMPLETION = "kernel.completion"
ALL = "all"
SYSCTL = "kernel.sysctl."

_RANGE = re.compile(r"([^.:]+(?:\.\d+)?)\.\.([^:]+)(?::(.+))?")
_UNIT = re.compile(r"[\d.]+([a-z]*)")


class CompareError(Exception):
    """The comparison cannot be made as asked; the text says why."""


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What the user asked for: runs, or boxes and the axes that they are varied along."""

    words: tuple[str, ...]
    axes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    duration: str | None = None
    figures: tuple[str, ...] = ()
    json_file: Path | None = None
    markdown_file: Path | None = None


def compare(request: CompareRequest, runs: Path) -> None:
    """Make and print a comparison.

    Raises CompareError, and what loading a box or finding a run raises, where it cannot be made.
    """
    comparison = _of_variants(request, runs) if request.axes else _of_runs(request, runs)
    comparison.figures = chosen_figures(request.figures, comparison.columns)
    render_comparison(comparison, Console())
    if request.json_file is not None:
        _write(request.json_file, json.dumps(as_plain(comparison), indent=2, ensure_ascii=False))
    if request.markdown_file is not None:
        _write(request.markdown_file, as_markdown(comparison))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CompareError(f"{file}: {error.strerror or error}") from error


def chosen_figures(words: Sequence[str], columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the figures that are named, or the usual ones that some run has."""
    named = [path for word in words for path in word.split(",") if path]
    runs = [run for column in columns for run in column.runs]
    for path in named:
        if all(figure_of(run, path) is None for run in runs):
            raise CompareError(f"no run has a figure {path!r}; results.json shows which there are")
    usual = [path for path in FIGURES if any(figure_of(run, path) is not None for run in runs)]
    return tuple(named or usual)


# -- Runs that there are ------------------------------------------------------------------------


def _of_runs(request: CompareRequest, runs: Path) -> Comparison:
    if len(request.words) < 2:
        raise CompareError("name two runs or more, or a box and what is varied by --vary")
    for given, name in (
        (request.overrides, "--set"),
        (request.duration, "--for"),
        (request.seeds > 1, "--seeds"),
    ):
        if given:
            raise CompareError(f"{name} is for a box that is run; these are runs that there are")
    columns = [_column_of(word, runs) for word in request.words]
    return Comparison(f"{len(columns)} runs side by side", columns)


def _column_of(word: str, runs: Path) -> Column:
    directory = resolve_run(word, runs)
    results = directory.read_json(RESULTS)
    return Column((word,), (results["figures"],), (str(directory.path),))


# -- Runs that are made -------------------------------------------------------------------------


def _of_variants(request: CompareRequest, runs: Path) -> Comparison:
    boxes = request.words
    axes = [axis_of(text) for text in request.axes]
    if len(set(boxes)) < len(boxes):
        raise CompareError("the same box is named twice")
    if len({axis.key for axis in axes}) < len(axes):
        raise CompareError("the same key is varied twice; write all its values into one --vary")
    variants = list(product(boxes, *(axis.words for axis in axes)))
    if len(variants) * request.seeds > RUNS_MAX:
        raise CompareError(f"{len(variants)} variants × {request.seeds} seeds are too many runs")
    settings = [(box, _settings(request, axes, variant)) for box, *variant in variants]
    for box, overrides in settings:
        load_box(box, overrides, None, request.duration).resolve()
    keep = create_stamped(runs / "compare", datetime.now(UTC))
    errands = [
        _errand(request, box, overrides, seed)
        for box, overrides in settings
        for seed in range(1, request.seeds + 1)
    ]
    reports = _with_progress(run_apart(errands, usable_cpus(), keep), len(errands))
    if len(boxes) > 1:
        axes.insert(0, Axis(BOX, boxes))
    else:
        variants = [variant[1:] for variant in variants]
    columns = [
        _column(variant, list(islice(reports, request.seeds)), keep, index * request.seeds)
        for index, variant in enumerate(variants)
    ]
    varied = " × ".join(
        f"{axis.short} ({len(axis.words)})"
        if len(axis.words) > 1
        else f"{axis.short} {axis.words[0]}"
        for axis in axes
    )
    subject = f"{boxes[0]}: " if len(boxes) == 1 else ""
    return Comparison(f"{subject}{varied} · runs in {keep}", columns, axes)


def _settings(
    request: CompareRequest, axes: Sequence[Axis], variant: Sequence[str]
) -> tuple[str, ...]:
    varied = [setting(axis.key, word) for axis, word in zip(axes, variant, strict=True)]
    return (*request.overrides, *varied)


def _errand(request: CompareRequest, box: str, overrides: Sequence[str], seed: int) -> Errand:
    options = ["--engine", INLINE, "--seed", str(seed)]
    if request.duration is not None:
        options += ["--for", request.duration]
    for override in overrides:
        options += ["--set", override]
    return Errand(box, tuple(options))


def _column(variant: tuple[str, ...], reports: Sequence[Report], keep: Path, number: int) -> Column:
    for report in reports:
        results = report.results
        if results is None or not results["complete"]:
            why = report.error or "it left no results"
            raise CompareError(f"{report.errand.box} with {' · '.join(variant)}: {why}")
    runs = tuple(report.results["figures"] for report in reports if report.results is not None)
    places = tuple(str(keep / str(number + index)) for index in range(len(reports)))
    return Column(variant, runs, places)


def _with_progress(reports: Iterator[Report], total: int) -> Iterator[Report]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from reports
        return
    with console.status(f"0 of {total} runs are over") as status:
        for number, report in enumerate(reports, 1):
            status.update(f"{number} of {total} runs are over")
            yield report


# -- Axes ---------------------------------------------------------------------------------------


def axis_of(text: str) -> Axis:
    """Return an axis from ``KEY=VALUES``; raise CompareError saying what is odd."""
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise CompareError(f"--vary {text}: write KEY=VALUE,VALUE,… or KEY=LOW..HIGH")
    words: list[str] = []
    for word in _split(values):
        if key == COMPLETION and word == ALL:
            words += _every_completion()
            continue
        words += _spread(text, word) if ".." in word else [word]
    if len(set(words)) < len(words):
        raise CompareError(f"--vary {text}: a value is there twice")
    numbers = None if key == VERSION else _numbers(words)
    return Axis(key, tuple(words), numbers)


# Every policy; unless-saturated with every signal, by itself it asks its own.  A signal that not every
# version has is left out.
def _every_completion() -> Iterator[str]:
    for policy in COMPLETIONS.values():
        yield policy.name
        if policy.signal == DEFAULT_SIGNAL:
            yield from (
                f"{policy.name}:{name}"
                for name, signal in SIGNALS.items()
                if name != DEFAULT_SIGNAL and not signal.rule
            )


def setting(key: str, word: str) -> str:
    """Return the override that sets a key to a word of its axis."""
    if key == VERSION:
        quoted = word.strip("\"'")
        return f'{key}="{quoted}"'
    if key == POLICIES and not word.startswith("["):
        names = [] if word == "none" else word.split("+")
        return f"{key}=[{', '.join(names)}]"
    if key.startswith(SYSCTL) and not word.lstrip("-").isdecimal():
        try:
            return f"{key}={duration_parse(word)}"
        except ValueError as error:
            raise CompareError(f"--vary {key}={word}: {error}") from error
    return f"{key}={word}"


# Commas inside brackets belong to a value.
def _split(values: str) -> list[str]:
    words, depth = [""], 0
    for char in values:
        depth += (char in "[{") - (char in "]}")
        if char == "," and not depth:
            words.append("")
        else:
            words[-1] += char
    return [word.strip() for word in words if word.strip()]


def _spread(text: str, word: str) -> list[str]:
    match = _RANGE.fullmatch(word)
    if match is None:
        raise CompareError(f"--vary {text}: a range is LOW..HIGH or LOW..HIGH:STEP")
    low, high = (_number(text, part) for part in match.group(1, 2))
    unit = _unit(match[2])
    step = _number(text, match[3] or f"1{unit}")
    if step <= 0 or high < low:
        raise CompareError(f"--vary {text}: a range goes up, by a step of more than nothing")
    count = (high - low) // step + 1
    if count > RUNS_MAX:
        raise CompareError(f"--vary {text}: these are {count:,} values")
    return [_word(low + step * index, unit) for index in range(count)]


def _unit(word: str) -> str:
    match = _UNIT.fullmatch(word)
    return match[1] if match else ""


def _number(text: str, word: str) -> int:
    try:
        if _unit(word):
            return duration_parse(word)
    except ValueError as error:
        raise CompareError(f"--vary {text}: {error}") from error
    if not word.isdecimal():
        raise CompareError(f"--vary {text}: {word!r} is not a whole number")
    return int(word)


def _word(number: int, unit: str) -> str:
    return duration_format(number) if unit else str(number)


def _numbers(words: Sequence[str]) -> tuple[float, ...] | None:
    numbers: list[float] = []
    for word in words:
        try:
            numbers.append(float(duration_parse(word) if _unit(word) else float(word)))
        except ValueError:
            return None
    return tuple(numbers)
