"""A comparison on the terminal: figures beside each other, what differs, flips, is best, which loops.

A few columns stand side by side, each figure with its ratio to the first; of many columns each is a
row, with the figures that matter most.  ``*`` marks what differs by more than noise.
"""

import textwrap
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from emulator.report.compare import (
    FLIPPING,
    Axis,
    Best,
    Column,
    Comparison,
    Flip,
    Value,
    figure_name,
)
from emulator.report.loops import sentence
from emulator.report.render import number
from emulator.report.words import duration, spaced, unbroken

#: Columns that may stand side by side; more of them become rows.
SIDE_BY_SIDE_MAX = 5
#: A range this much smaller than its median is not worth its room.
RANGE_MIN = 0.005
#: The figures of a row where there are many.
ROW_FIGURES = (
    "iops",
    "migrations_per_s",
    "switches_per_s",
    "works_per_kworker_run",
    "queue_to_start_us.p50",
    "residence_us.mean",
)
ROW_NAMES = {
    "iops": "IOPS",
    "migrations_per_s": "moves/s",
    "switches_per_s": "switches/s",
    "works_per_kworker_run": "works/run",
    "queue_to_start_us.p50": "queue→start",
    "residence_us.mean": "stay",
}
DIFFERS = "*"
#: Wider than any table.
WIDTH_MAX = 10_000


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison: table, flips, who is best, loops."""
    console.print(Text(comparison.title), soft_wrap=True)
    console.print()
    table, ranges = _side_by_side(comparison), True
    if _is_many(comparison) or _width(table, console) > console.width:
        table, ranges = _widest(comparison, console), False
    console.print(table)
    console.print(Text(_legend(comparison, ranges), style="dim"), soft_wrap=True)
    _print_lines(console, "Flips", list(_flip_lines(comparison)))
    _print_lines(console, "Best", list(best_lines(comparison)))
    _print_lines(console, "Loops", list(_loop_lines(comparison)))


def cell(value: Value | None, path: str) -> str:
    """Return a figure as a table shows it; its range too, if its runs differ."""
    if value is None:
        return "–"
    text = _figure(value.median, path)
    if value.high - value.low <= RANGE_MIN * abs(value.median):
        return text
    return f"{text} ({_figure(value.low, path)}–{_figure(value.high, path)})"


def _figure(value: float, path: str) -> str:
    return duration(value) if "_us" in path else number(value)


def _side_by_side(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for index, column in enumerate(comparison.columns):
        table.add_column(comparison.label(column), justify="right", no_wrap=True)
        if index:
            table.add_column("ratio", justify="right", no_wrap=True)
    for path in comparison.figures:
        cells = [figure_name(path)]
        for index, column in enumerate(comparison.columns):
            cells.append(cell(comparison.value(column, path), path))
            if index:
                cells.append(_ratio(comparison, column, path))
        table.add_row(*cells)
    return table


# The figures that fit, the most telling first; at least one.
def _widest(comparison: Comparison, console: Console) -> Table:
    paths = [path for path in ROW_FIGURES if path in comparison.figures]
    paths = paths if len(comparison.figures) > len(ROW_FIGURES) else list(comparison.figures)
    while len(paths) > 1 and _width(_rows(comparison, paths), console) > console.width:
        paths.pop()
    return _rows(comparison, paths)


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).maximum


# The swept axis stands last, since neighbours on it may become one row.
def _rows(comparison: Comparison, paths: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for axis in comparison.other_axes():
        table.add_column(axis.short, no_wrap=True)
    number = comparison.swept()
    if number >= 0 or not comparison.axes:
        table.add_column(comparison.axes[number].short if number >= 0 else "run", no_wrap=True)
    for path in paths:
        table.add_column(ROW_NAMES.get(path, figure_name(path)), justify="right", no_wrap=True)
    for fixed, word, cells in _joined(comparison, paths):
        table.add_row(*fixed, *([word] if word else []), *cells)
    return table


def _joined(
    comparison: Comparison, paths: list[str]
) -> list[tuple[tuple[str, ...], str, list[str]]]:
    if not comparison.axes:
        return [
            ((), comparison.label(one), _cells(comparison, one, paths))
            for one in comparison.columns
        ]
    if comparison.swept() < 0:
        return [(one.words, "", _cells(comparison, one, paths)) for one in comparison.columns]
    return [
        (fixed, words, cells)
        for fixed, group in comparison.groups()
        for words, cells in _spans(comparison, group, lambda one: _cells(comparison, one, paths))
    ]


def _cells(comparison: Comparison, column: Column, paths: list[str]) -> list[str]:
    return [_marked(comparison, column, path) for path in paths]


# Neighbours on the swept axis of which the same is said, as "1ms to 5ms".
def _spans(
    comparison: Comparison, group: list[Column], said: Callable[[Column], list[str]]
) -> list[tuple[str, list[str]]]:
    number = comparison.swept()
    spans: list[tuple[str, str, list[str]]] = []
    for column in group:
        word, text = column.words[number], said(column)
        if spans and spans[-1][2] == text:
            spans[-1] = (spans[-1][0], word, text)
        else:
            spans.append((word, word, text))
    return [(low if low == high else f"{low} to {high}", text) for low, high, text in spans]


def _marked(comparison: Comparison, column: Column, path: str) -> str:
    value = comparison.value(column, path)
    text = "–" if value is None else _figure(value.median, path)
    differs = comparison.differs(column, path)
    return text + (DIFFERS if differs else " ")


def _ratio(comparison: Comparison, column: Column, path: str) -> str:
    mark = DIFFERS if comparison.differs(column, path) else " "
    value = comparison.value(column, path)
    first = comparison.value(comparison.base(column), path)
    if value is None or first is None or not first.median:
        return mark
    ratio = value.median / first.median
    return f"{number(ratio) if ratio >= 1000 else f'{ratio:.3g}'}{mark}"


def _legend(comparison: Comparison, ranges: bool) -> str:
    runs, first = len(comparison.columns[0].runs), comparison.columns[0].words
    seeds = f"; medians of {runs} seeds" if runs > 1 else ""
    seeds += " (lowest–highest)" if runs > 1 and ranges else ""
    of_box = " of its box" if comparison.base(comparison.columns[-1]).words != first else ""
    return f"{DIFFERS} differs from the first{of_box} by more than noise{seeds}"


# -- In words -----------------------------------------------------------------------------------


def _flip_lines(comparison: Comparison) -> Iterator[str]:
    flips = comparison.flips()
    steps: dict[tuple[str, tuple[str, ...], str, str], list[Flip]] = {}
    for flip in flips:
        key = (flip.axis.key, flip.fixed, flip.before, flip.after)
        steps.setdefault(key, []).append(flip)
    for together in steps.values():
        yield _flip_line(comparison, together)
    yield from _still_lines(comparison, {flip.fixed for flip in flips})


def _flip_line(comparison: Comparison, flips: list[Flip]) -> str:
    first = flips[0]
    where = _where(comparison, first.fixed)
    parts = [
        f"{flip.figure} {'rises' if flip.value_after > flip.value_before else 'falls'} from "
        f"{_figure(flip.value_before, flip.figure)} to {_figure(flip.value_after, flip.figure)}"
        for flip in flips
    ]
    step = f"between {first.before} and {first.after} ({first.axis.short})"
    rest = f"; with it, {', '.join(parts[1:])}" if parts[1:] else ""
    return f"{where}{parts[0]} {step}{rest}"


# Where nothing flips is an answer too.
def _still_lines(comparison: Comparison, flipped: set[tuple[str, ...]]) -> Iterator[str]:
    number = comparison.swept()
    for fixed, group in comparison.groups():
        if fixed not in flipped:
            low, high = group[0].words[number], group[-1].words[number]
            axis = comparison.axes[number].short
            yield f"{_where(comparison, fixed)}no figure flips between {low} and {high} ({axis})"


def _where(comparison: Comparison, fixed: tuple[str, ...]) -> str:
    settings = [
        f"{axis.short} {word}"
        for axis, word in zip(comparison.other_axes(), fixed, strict=True)
        if len(axis.words) > 1
    ]
    return f"{', '.join(settings)}: " if settings else ""


def best_lines(comparison: Comparison) -> Iterator[str]:
    """Yield who is best at what, a sentence per setting of the other axes and figure."""
    for best in comparison.best():
        others = [
            word
            for axis, word in zip(_beside(comparison), best.fixed, strict=True)
            if len(axis.words) > 1
        ]
        yield f"{', '.join(others)}{': ' if others else ''}{best_words(best)}"


def best_words(best: Best) -> str:
    """Return who has the best of a figure, and how much that is."""
    name = ROW_NAMES.get(best.figure, figure_name(best.figure))
    low, high = _figure(best.low, best.figure), _figure(best.high, best.figure)
    span = low if low == high else f"{low}–{high}"
    if not best.others:
        return f"{name}: all alike, {span}"
    if len(best.words) > len(best.others):
        return f"{name}: {span}, all but {', '.join(best.others)}"
    return f"{name}: {span}, {', '.join(best.words)}"


# The axes beside the one along which there is a best.
def _beside(comparison: Comparison) -> list[Axis]:
    number = comparison.contest()
    return comparison.axes[:number] + comparison.axes[number + 1 :]


def _loop_lines(comparison: Comparison) -> Iterator[str]:
    if not _is_many(comparison):
        yield from _whole_loop_lines(comparison)
    elif comparison.swept() < 0:
        for column in comparison.columns:
            yield f"{comparison.label(column)}: {', '.join(_patterns(column))}"
    else:
        for fixed, group in comparison.groups():
            for words, found in _spans(comparison, group, _patterns):
                yield f"{_where(comparison, fixed)}{words}: {', '.join(found)}"


# Few columns have room for figures; those of which the same is said share a line.
def _whole_loop_lines(comparison: Comparison) -> Iterator[str]:
    labels: dict[tuple[str, ...], list[str]] = {}
    for column in comparison.columns:
        found = tuple(sentence(loop) for loop in column.loops) or ("none",)
        labels.setdefault(found, []).append(comparison.label(column))
    for found, some in labels.items():
        yield from (f"{', '.join(some)}: {one}" for one in found)


def _patterns(column: Column) -> list[str]:
    return [str(loop["pattern"]).replace("_", " ") for loop in column.loops] or ["none"]


def _is_many(comparison: Comparison) -> bool:
    return len(comparison.columns) > SIDE_BY_SIDE_MAX


def _print_lines(console: Console, title: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(title))
    for line in lines:
        text = textwrap.fill(
            unbroken(line),
            console.width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(Text(spaced(text)), soft_wrap=True)


assert set(FLIPPING) <= set(ROW_FIGURES)
