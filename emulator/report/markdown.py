"""A comparison as Markdown: for each figure a table, a row per word and a column per setting.

Theory of operation
-------------------
The rows are the words of one axis: the one along which there is a best, else the last.  The columns
are what the other axes say.  In each column the best are in bold, where some are beaten.
"""

from collections.abc import Iterator

from emulator.report.compare import Comparison, figure_name
from emulator.report.side_by_side import best_lines, cell


def as_markdown(comparison: Comparison) -> str:
    """Return the tables of a comparison, and who is best at what."""
    parts = ["\n".join(_table(comparison, path)) for path in comparison.figures]
    best = [f"* {line}" for line in best_lines(comparison)]
    return "\n\n".join([*parts, *(["\n".join(best)] if best else [])])


def _table(comparison: Comparison, path: str) -> Iterator[str]:
    number = comparison.contest() if comparison.contest() >= 0 else len(comparison.axes) - 1
    best = {one.fixed: one for one in comparison.best() if one.figure == path}
    rows: dict[str, dict[tuple[str, ...], str]] = {}
    heads: dict[tuple[str, ...], None] = {}
    for column in comparison.columns:
        word = column.words[number] if comparison.axes else comparison.label(column)
        fixed = column.words[:number] + column.words[number + 1 :] if comparison.axes else ()
        heads[fixed] = None
        text = cell(comparison.value(column, path), path)
        wins = fixed in best and best[fixed].others and word in best[fixed].words
        rows.setdefault(word, {})[fixed] = f"**{text}**" if wins else text
    yield f"| {figure_name(path)} | {' | '.join(' · '.join(head) for head in heads)} |"
    yield f"|---|{'--:|' * len(heads)}"
    for word, cells in rows.items():
        yield f"| `{word}` | {' | '.join(cells.get(head, '–') for head in heads)} |"
