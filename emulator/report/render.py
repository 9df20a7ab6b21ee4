"""The result of a run on the terminal: what happened to the submitter, how often, and why.

Theory of operation
-------------------
The first lines answer the question for which the run was made, in words; the tables below them
carry the figures that the words rest on.  Everything is read from ``results.json``, so an old run
prints as a new one does.  Where the output is no terminal, rich prints plain text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emulator.report.validate import INFO, MISS, OK, UNKNOWN, Comparison

VERDICTS = {True: ("true", "green"), False: ("false", "red"), None: ("unknown", "yellow")}
BAR_CELLS = 12
#: CPUs side by side; more of them where the box is large, without bars.
BARS_PER_LINE = 4
LARGE_BOX_CPUS = 32
FIGURES_PER_LINE_LARGE = 8
SUBMITTERS_MAX = 6
CHECKS_MAX = 8

#: A submitter that moves less often than this stays where it is.
STAYS_PER_S = 3.0
#: A kworker that runs within this time of being woken does not wait for anybody's slice.
PROMPT_US = 100.0

WAITS = (
    ("residence_us", "submitter stays on a CPU"),
    ("migration_gap_us", "between its migrations"),
    ("submitter_wake_to_run_us", "submitter woken → running"),
    ("queue_to_start_us", "completion work queued → started"),
    ("kworker_wake_to_run_us", "kworker woken → running"),
    ("slat_us", "submission latency (slat)"),
    ("clat_us", "completion latency (clat)"),
)
BALANCE_COLUMNS = ("calls", "balanced", "failed", "pulled")
ACTIVE_COLUMNS = ("active_kicked", "active_pushed", "active_failed")


def render(results: Mapping[str, Any], console: Console) -> None:
    """Print the result of a run, as :func:`emulator.report.results.build_results` made it."""
    figures = results["figures"]
    console.print(_headline(results))
    for line in story(figures):
        console.print(Text(line))
    console.print(Text(io_line(figures)), Text(""), sep="\n")
    console.print(_waits_table(figures))
    for line in cpu_lines(figures["cpu_utilisation"], bars=_has_blocks(console)):
        console.print(Text(line), no_wrap=True, overflow="crop")
    if figures.get("balance"):
        console.print(_balance_table(figures["balance"]))
    for text in _check_lines(results):
        console.print(text)


def render_comparisons(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print what ``validate`` found: per case and figure real, emulated, ratio, verdict."""
    table = Table(box=None, pad_edge=False)
    table.add_column("case")
    table.add_column("figure")
    for name in ("real", "emulated", "range", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("verdict")
    for comparison in comparisons:
        table.add_row(*_comparison_row(comparison))
    console.print(table)
    verdicts = [comparison.verdict for comparison in comparisons]
    counts = [f"{verdicts.count(word)} {word}" for word in (OK, MISS, UNKNOWN, INFO)]
    console.print(Text(", ".join(counts)))


# -- In words -----------------------------------------------------------------------------------


def story(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what happened to the submitters and why, a line each."""
    names = list(figures["submitters"])
    who = names[0] if len(names) == 1 else f"{len(names)} submitters"
    verb = "was" if len(names) == 1 else "were"
    rate = figures["migrations_per_s"]
    if rate < STAYS_PER_S:
        often = "never" if not figures["migrations"] else f"hardly ever ({rate:.1f}/s)"
        yield f"{who} {verb} {often} migrated{_why_it_stays(figures)}"
    else:
        per_io = figures["migrations_per_io"]
        gap = figures["migration_gap_us"]["mean"]
        often = "" if per_io is None else f", {1000 * per_io:,.1f} per 1000 IOs"
        often += "" if gap is None else f", every {duration(gap)} on average"
        yield f"{who} {verb} migrated {rate:,.1f} times per second{often}:"
    yield from _cause_lines(figures)
    if 1 < len(names) <= SUBMITTERS_MAX:
        for name, one in figures["submitters"].items():
            yield (
                f"  {name}: {one['migrations_per_s']:,.1f} migrations/s, {one['iops']:,.0f} IOPS, "
                f"{one['cpu_fraction']:.0%} of a CPU"
            )


def _cause_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    causes = {name: count for name, count in figures["migrations_by_cause"].items() if count}
    for name, count in sorted(causes.items(), key=lambda item: -item[1]):
        yield f"  {count / figures['window_s']:7,.1f}/s  {_cause_words(name, figures)}"


def _cause_words(name: str, figures: Mapping[str, Any]) -> str:
    waited = figures["queue_to_start_us"]["p50"]
    match name:
        case "active_balance":
            behind = f": the bound kworker's works waited {duration(waited)} (p50) behind it"
            return "pushed away by active balance" + (behind if waited is not None else "")
        case "wakeup":
            return f"placed on another CPU when it was woken{_wakers(figures)}"
        case "periodic":
            return "pulled by periodic balance of another CPU"
        case "newidle":
            return "pulled by a CPU that was going idle"
        case "nohz":
            return "pulled by the idle load balancer for a sleeping CPU"
        case "hotplug":
            return "moved because its CPU went away"
        case "affinity":
            return "moved because its allowed CPUs changed"
        case _:
            return name


# The kworker that ends an IO occupies the submitter's last CPU while it wakes it.
def _wakers(figures: Mapping[str, Any]) -> str:
    prefix = "wakeup by "
    contexts = figures["migrations_by_context"]
    wakers = [name.removeprefix(prefix) for name in contexts if name.startswith(prefix)]
    if not wakers:
        return ""
    if wakers[0] == "kworker":
        return ": the waking kworker sat on its last CPU"
    return f" by {wakers[0]}"


def _why_it_stays(figures: Mapping[str, Any]) -> str:
    waited = figures["kworker_wake_to_run_us"]["p50"]
    works = figures["works_per_kworker_run"]
    if waited is None or works is None:
        return ""
    if waited <= PROMPT_US:
        return (
            f": kworkers ran {duration(waited)} (p50) after they were woken, {works:.1f} works each"
        )
    return f": kworkers waited {duration(waited)} (p50) for its CPU, {works:.1f} works each"


def io_line(figures: Mapping[str, Any]) -> str:
    """Return one line about IO: rate, works per kworker run, inline completions, switches."""
    parts = [f"{figures['iops']:,.0f} IOPS"]
    if figures["works_per_kworker_run"] is not None:
        parts.append(f"{figures['works_per_kworker_run']:,.1f} works per kworker run")
    if figures["inline_completion_fraction"] is not None:
        parts.append(f"{figures['inline_completion_fraction']:.2%} completed inline")
    parts.append(f"{figures['switches_per_s']:,.0f} context switches/s")
    return " · ".join(parts)


def duration(us: float) -> str:
    """Return microseconds with three digits in the unit that reads best."""
    if us < 1000:
        return f"{us:.3g} µs"
    return f"{us / 1000:.3g} ms" if us < 1_000_000 else f"{us / 1_000_000:.3g} s"


# -- In figures ---------------------------------------------------------------------------------


def _headline(results: Mapping[str, Any]) -> Text:
    word, colour = VERDICTS[results["valid"]]
    window = results["figures"]["window_s"]
    text = Text(f"{results['box']} · seed {results['seed']} · figures over {window:.4g} s · ")
    text.append(f"verdict {word}", style=f"bold {colour}")
    if not results.get("complete", True):
        text.append(" (the run ended early)", style="yellow")
    return text


def _waits_table(figures: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("n", "mean", "p10", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    for name, title in WAITS:
        _add_distribution(table, title, figures.get(name))
    for kind, distribution in _longest_runs(figures["run_length_us"]):
        _add_distribution(table, f"{kind} runs for", distribution)
    return table


def _add_distribution(table: Table, title: str, values: Mapping[str, Any] | None) -> None:
    if values is None or not values["n"]:
        return
    cells = [duration(values[name]) for name in ("mean", "p10", "p50", "p90", "p99", "max")]
    table.add_row(title, f"{values['n']:,}", *cells)


# The three kinds of task that used most CPU time.
def _longest_runs(kinds: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    used = [(one["n"] * one["mean"], kind) for kind, one in kinds.items() if one["n"]]
    return [(kind, kinds[kind]) for _us, kind in sorted(used, reverse=True)[:3]]


def cpu_lines(utilisation: Mapping[str, float], bars: bool) -> Iterator[str]:
    """Yield the use of every CPU, several side by side, as bars where there is room."""
    large = len(utilisation) > LARGE_BOX_CPUS
    per_line = FIGURES_PER_LINE_LARGE if large else BARS_PER_LINE
    cells = [
        f"{cpu:>3} {'' if large else _bar(use, bars) + ' '}{use:4.0%}"
        for cpu, use in utilisation.items()
    ]
    for start in range(0, len(cells), per_line):
        yield ("CPU " if not start else "    ") + " ".join(cells[start : start + per_line])


def _bar(use: float, blocks: bool) -> str:
    full = min(BAR_CELLS, round(use * BAR_CELLS))
    return ("█" if blocks else "#") * full + ("·" if blocks else ".") * (BAR_CELLS - full)


def _has_blocks(console: Console) -> bool:
    return console.encoding.lower().replace("-", "") == "utf8"


def _balance_table(balance: Mapping[str, Any]) -> Table:
    types = {name: counts for name, counts in balance.items() if isinstance(counts, Mapping)}
    columns = [
        name
        for name in (*BALANCE_COLUMNS, *ACTIVE_COLUMNS)
        if any(name in counts for counts in types.values())
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("load balance")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for kind, counts in types.items():
        table.add_row(kind, *[f"{counts.get(name, 0):,}" for name in columns])
    return table


def _check_lines(results: Mapping[str, Any]) -> Iterator[Text]:
    figures = results["figures"]
    for kind, colour in (("bugs", "red"), ("warnings", "yellow")):
        for text in figures.get(kind, ())[:CHECKS_MAX]:
            yield Text(f"{kind[:-1]}: {text}", style=colour)
    if figures.get("records_lost"):
        yield Text(f"{figures['records_lost']:,} records of the window were lost", style="yellow")
    # What did not hold comes first: it is what a reader must not miss.
    checks = sorted(results["checks"], key=lambda check: check["ok"] is True)
    for check in checks[:CHECKS_MAX]:
        word, colour = {True: ("ok", "green"), False: ("FAILED", "red")}.get(
            check["ok"], ("unknown", "yellow")
        )
        line = f"check {check['figure']}: {check['expected']}; it is {check['value']}: "
        yield Text(line).append(word, style=colour)


def _comparison_row(comparison: Comparison) -> list[str | Text]:
    figure = comparison.figure
    ratio = "" if comparison.ratio is None else f"{comparison.ratio:.2f}"
    spread = ""
    if comparison.low is not None and comparison.high is not None:
        spread = f"{number(comparison.low)} – {number(comparison.high)}"
    colour = {OK: "green", MISS: "red", UNKNOWN: "yellow"}.get(comparison.verdict, "")
    return [
        comparison.case,
        figure.path,
        number(figure.real),
        "" if comparison.emulated is None else number(comparison.emulated),
        spread,
        ratio,
        "calibrated" if figure.calibrated else "predicted",
        Text(comparison.verdict, style=colour),
    ]


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
