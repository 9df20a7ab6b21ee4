"""The result of a run on the terminal: what happened to the submitter, how often, and why.

Theory of operation
-------------------
The first lines answer the question for which the run was made, in words; the tables below them
carry the figures that the words rest on.  Everything is read from ``results.json``, so an old run
prints as a new one does.  Nothing is wider than the terminal: sentences are wrapped, and a narrow
terminal gets shorter bars and fewer percentiles.  Where the output is no terminal, rich prints
plain text, 80 columns wide.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emulator.report.loops import sentence
from emulator.report.validate import INFO, MISS, OK, UNKNOWN, Comparison
from emulator.report.words import NO_BREAK, duration, spaced

NSEC_PER_SEC = 1_000_000_000

#: From this width on a distribution is shown with all its percentiles.
WIDE = 100
BAR_CELLS_MIN = 4
BAR_CELLS_MAX = 12
#: CPUs side by side; more of them where the box is large, without bars.
BARS_PER_LINE = 4
LARGE_BOX_CPUS = 32
FIGURES_PER_LINE_LARGE = 8
SUBMITTERS_MAX = 6
CHECKS_MAX = 8
LOOPS_MAX = 4
COMMANDS_MAX = 16
FAULTS_MAX = 4

#: A submitter that moves less often than this stays where it is.
STAYS_PER_S = 3.0
#: A kworker that runs within this time of being woken does not wait for anybody's slice.
PROMPT_US = 100.0

#: A line that begins with a figure in a column of its own goes on below its text.
FIGURE_COLUMN = re.compile(r" *\S+  +")

BROKE_OFF = "the run broke off with an error"

WAITS = (
    ("residence_us", "submitter stays on a CPU"),
    ("migration_gap_us", "between its migrations"),
    ("submitter_wake_to_run_us", "submitter woken → running"),
    ("queue_to_start_us", "work queued → started"),
    ("kworker_wake_to_run_us", "kworker woken → running"),
    ("slat_us", "submission latency (slat)"),
    ("clat_us", "completion latency (clat)"),
)
PERCENTILES = ("mean", "p50", "p90", "p99", "max")
PERCENTILES_WIDE = ("mean", "p10", "p50", "p90", "p99", "max")

BALANCE_COLUMNS = {
    "calls": "passes",
    "balanced": "balanced",
    "failed": "failed",
    "pulled": "pulled",
    "active_kicked": "kicked",
    "active_pushed": "pushed",
    "active_failed": "not pushed",
}
BALANCE_WORDS = (
    "passes by the state of the CPU that balanced; failed: an imbalance, but no "
    "task that may be moved; pulled: tasks moved here; kicked: the busiest CPU's stopper was told "
    "to push the running task (active balance)"
)


def render(results: Mapping[str, Any], console: Console, directory: Path | None = None) -> None:
    """Print the result of a run, as :func:`emulator.report.results.build_results` made it.

    ``directory`` is where the run left it.
    """
    figures = results["figures"]
    _print_wrapped(console, headline(results))
    for line in story(figures):
        _print_wrapped(console, line)
    _print_wrapped(console, io_line(figures))
    if where := completion_line(figures):
        _print_wrapped(console, where)
    for line in fault_lines(results.get("faults", ())):
        _print_wrapped(console, line)
    if results.get("commands"):
        _print_wrapped(console, commands_line(results["commands"]))
    console.print()
    console.print(_waits_table(figures, console.width))
    for line in cpu_lines(figures["cpu_utilisation"], _has_blocks(console), console.width):
        console.print(Text(line), no_wrap=True, overflow="crop")
    if figures.get("balance"):
        console.print(_balance_table(figures["balance"]))
        _print_wrapped(console, BALANCE_WORDS, style="dim")
    for text in _check_lines(results):
        console.print(text)
    console.print(verdict(results))
    if directory is not None:
        _print_wrapped(console, _where(results, directory))


def render_comparisons(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print what ``validate`` found: per case and figure real, emulated, ratio, verdict."""
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, collapse_padding=not wide)
    table.add_column("case", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    for name in ("real", "emulated", "range", "ratio") if wide else ("real", "emulated", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for comparison in comparisons:
        table.add_row(*_comparison_row(comparison, wide))
    console.print(table)
    verdicts = [comparison.verdict for comparison in comparisons]
    counts = [f"{verdicts.count(word)} {word}" for word in (OK, MISS, UNKNOWN, INFO)]
    console.print(Text(", ".join(counts)))


def render_summary(
    batches: Mapping[str, Mapping[str, Sequence[Comparison]]], console: Console
) -> None:
    """Print, per batch and in all, how many cases and rows hold, and which cases do not."""
    table = Table(box=None, pad_edge=False)
    for name in ("batch", "cases ok", "missed", "rows ok", "missed", "unknown", "not judged"):
        table.add_column(name, justify="left" if name == "batch" else "right", no_wrap=True)
    everything: list[Sequence[Comparison]] = []
    for batch, cases in batches.items():
        table.add_row(batch, *_summary_cells(list(cases.values())))
        everything += cases.values()
    table.add_row("all", *_summary_cells(everything), style="bold")
    console.print(table)
    for cases in batches.values():
        for name, rows in cases.items():
            missed = [row.figure.path for row in rows if row.verdict == MISS]
            if missed:
                console.print(Text(f"missed: {name}: {', '.join(missed)}", style="red"))


def _summary_cells(cases: Sequence[Sequence[Comparison]]) -> list[str]:
    verdicts = [row.verdict for rows in cases for row in rows]
    missed = sum(any(row.verdict == MISS for row in rows) for rows in cases)
    unknown = sum(
        all(row.verdict != MISS for row in rows) and any(row.verdict == UNKNOWN for row in rows)
        for rows in cases
    )
    counts = [len(cases) - missed - unknown, missed]
    return [str(n) for n in (*counts, *(verdicts.count(one) for one in (OK, MISS, UNKNOWN, INFO)))]


# -- In words -----------------------------------------------------------------------------------


def story(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what happened to the submitters and why, a line each."""
    names = list(figures["submitters"])
    if not names:
        yield "no submitter completed an IO in this time"
        return
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
    for loop in figures.get("loops", ())[:LOOPS_MAX]:
        yield f"     loop:  {sentence(loop)}"
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
    match name:
        case "active_balance":
            return f"pushed away by active balance: {_what_waited(figures)}"
        case "wakeup":
            return f"placed on another CPU when it was woken{_wakers(figures)}"
        case "periodic":
            return "pulled by periodic balance of another CPU, while it waited to run"
        case "newidle":
            return "pulled by a CPU that was going idle, while it waited to run"
        case "nohz":
            return "pulled for an idle CPU by the idle load balancer, while it waited to run"
        case "hotplug":
            return "moved because its CPU went away"
        case "affinity":
            return "moved because its allowed CPUs changed"
        case _:
            return name


# Active balance means that what waited could not be moved; who that was shows in the delay.
def _what_waited(figures: Mapping[str, Any]) -> str:
    waited = figures["queue_to_start_us"]["p50"]
    if waited is None or waited <= PROMPT_US:
        return "what waited behind it could not be moved"
    return (
        f"the kworker bound to its CPU waited behind it (works {duration(waited)}, median) and "
        "could not be moved, so the submitter was"
    )


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
    each = f"{works:,.1f} works each"
    if waited <= PROMPT_US:
        return f": kworkers ran {duration(waited)} (median) after they were woken, {each}"
    return f": kworkers waited {duration(waited)} (median) for its CPU, {each}"


def io_line(figures: Mapping[str, Any]) -> str:
    """Return one line about IO: rate, works per kworker run, inline completions, switches."""
    parts = [f"{figures['iops']:,.0f} IOPS"]
    if figures["works_per_kworker_run"] is not None:
        parts.append(f"{figures['works_per_kworker_run']:,.1f} works per kworker run")
    if (inline := figures["inline_completion_fraction"]) is not None:
        part = f"{inline:.2%} of the IOs" if inline else "no IO"
        parts.append(f"{part} completed without a kworker")
    parts.append(f"{figures['switches_per_s']:,.0f} context switches/s")
    return " · ".join(parts)


def completion_line(figures: Mapping[str, Any]) -> str:
    """Return one line about where IOs were completed and what that cost; empty where all was as ever."""
    found = figures.get("completions", {})
    if not found.get("total") or (not found["decisions"] and found["local_fraction"] == 1):
        return ""
    parts = [f"{found['local_fraction']:.0%} completed on the submitter's CPU"]
    for name, where in (("llc", "on another of its cache"), ("other", "beyond its cache")):
        if fraction := found[f"remote_{name}_fraction"]:
            parts.append(f"{fraction:.0%} {where}")
    refill = found["cache_refill_us"]
    parts[-1] += f", for {duration(refill)} of cache misses" if refill else ""
    parts.append(f"{found['idle_wakeups_per_s']:,.0f} idle CPUs woken/s")
    if found["decisions"]:
        total = sum(found["decisions"].values())
        shares = [
            f"{count / total:.0%} {name.replace('_', ' ')}"
            for name, count in sorted(found["decisions"].items(), key=lambda item: -item[1])
        ]
        parts.append(f"policy: {', '.join(shares)}, {found['decision_ns']:,.0f} ns each")
    return " · ".join(parts)


def commands_line(commands: Sequence[Mapping[str, Any]]) -> str:
    """Return one line of the commands that the box was given, and what became of them."""
    parts = []
    for command in commands[:COMMANDS_MAX]:
        answer = "" if command["answer"] == "done" else f" ({command['answer']})"
        part = f"{command['at_ns'] / NSEC_PER_SEC:.4g} s {command['do']}{answer}"
        parts.append(part.replace(" ", NO_BREAK))
    more = len(commands) - COMMANDS_MAX
    return "commands: " + " · ".join(parts) + (f" · and {more} more" if more > 0 else "")


def fault_lines(faults: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each process that was killed by a stranger: when, and what came of it."""
    lines = [
        f"{one['agent']} was killed by {one['signal']} at {one['at_ns'] / NSEC_PER_SEC:.4g} s and "
        f"replaced within {one['recovered_ms']:.3g} ms"
        + (f", for which the box was told: {one['command']}" if one["command"] else "")
        for one in faults[:FAULTS_MAX]
    ]
    more = len(faults) - FAULTS_MAX
    return [*lines, f"and {more} processes more were killed"] if more > 0 else lines


# -- In figures ---------------------------------------------------------------------------------


def headline(results: Mapping[str, Any]) -> str:
    """Return what was run, and of which part of it the figures are."""
    window_s = results["figures"]["window_s"]
    text = f"{results['box']} · seed {results['seed']} · figures of {window_s:.4g} s"
    reached_s = results.get("engine", {}).get("reached_ns", 0) / NSEC_PER_SEC
    skipped_s = reached_s - window_s
    return text + (f" after {skipped_s:.4g} s of warm-up" if skipped_s > 1e-6 else "")


def verdict(results: Mapping[str, Any]) -> Text:
    """Return the verdict in words: what held, what did not, or why nobody can say."""
    valid, figures = results["valid"], results["figures"]
    answers = [check["ok"] for check in results["checks"]]
    of = f"{len(answers)} check{'' if len(answers) == 1 else 's'}"
    if valid is True:
        hold = "holds" if len(answers) == 1 else "hold"
        return Text(f"passed: {of} {hold}" if answers else "passed", style="bold green")
    if valid is False:
        wrong = answers.count(False)
        reasons = [BROKE_OFF] if results.get("error") else []
        if wrong:
            reasons.append(f"{wrong} of {of} {'does' if wrong == 1 else 'do'} not hold")
        reasons += [
            f"{len(figures[kind])} {kind}" for kind in ("bugs", "warnings") if figures.get(kind)
        ]
        return Text(f"FAILED: {', '.join(reasons)}", style="bold red")
    return Text(f"no verdict: {_why_unknown(results)}", style="bold yellow")


def _why_unknown(results: Mapping[str, Any]) -> str:
    if results.get("error"):
        return BROKE_OFF
    reached = results.get("engine", {}).get("reached_ns", 0) / NSEC_PER_SEC
    if results.get("interrupted"):
        return f"interrupted at {reached:.4g} s"
    if not results.get("complete", True):
        return "the run ended early"
    if results["figures"].get("records_lost"):
        return "records were lost"
    return "a check names a figure that this run does not have"


def _where(results: Mapping[str, Any], directory: Path) -> str:
    text = f"results.json, cpuN.log and the rest are in {directory}"
    engine = results.get("engine")
    if not engine:
        return text
    emulated_s = engine["reached_ns"] / NSEC_PER_SEC
    return f"{text} ({emulated_s:.4g} s emulated in {engine['wall_s']:.3g} s, {engine['name']})"


# Goes on below the text of the first line; words are never broken.
def _print_wrapped(console: Console, line: str, style: str = "") -> None:
    column = FIGURE_COLUMN.match(line)
    text = textwrap.fill(
        line,
        console.width,
        subsequent_indent=" " * (column.end() if column else 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print(Text(spaced(text), style=style), soft_wrap=True)


def _waits_table(figures: Mapping[str, Any], width: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    percentiles = PERCENTILES_WIDE if width >= WIDE else PERCENTILES
    for name in ("n", *percentiles):
        table.add_column(name, justify="right", no_wrap=True)
    for name, title in WAITS:
        _add_distribution(table, title, figures.get(name), percentiles)
    for kind, distribution in _longest_runs(figures["run_length_us"]):
        who = "the stopper" if kind == "migration" else kind
        _add_distribution(table, f"one run of {who}", distribution, percentiles)
    return table


def _add_distribution(
    table: Table, title: str, values: Mapping[str, Any] | None, percentiles: Sequence[str]
) -> None:
    if values is None or not values["n"]:
        return
    cells = [duration(values[name]) for name in percentiles]
    table.add_row(title, f"{values['n']:,}", *cells)


# The three kinds of task that used most CPU time.
def _longest_runs(kinds: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    used = [(one["n"] * one["mean"], kind) for kind, one in kinds.items() if one["n"]]
    return [(kind, kinds[kind]) for _us, kind in sorted(used, reverse=True)[:3]]


def cpu_lines(utilisation: Mapping[str, float], bars: bool, width: int) -> Iterator[str]:
    """Yield the use of every CPU, several side by side, as bars where there is room."""
    large = len(utilisation) > LARGE_BOX_CPUS
    per_line = FIGURES_PER_LINE_LARGE if large else BARS_PER_LINE
    # What is left of a line's share after the CPU's number, its figure and the gaps.
    room = (width - 3) // BARS_PER_LINE - 10
    cells = max(BAR_CELLS_MIN, min(BAR_CELLS_MAX, room))
    texts = [
        f"{cpu:>3} {'' if large else _bar(use, cells, bars) + ' '}{use:4.0%}"
        for cpu, use in utilisation.items()
    ]
    for start in range(0, len(texts), per_line):
        yield ("CPU " if not start else "    ") + " ".join(texts[start : start + per_line])


def _bar(use: float, cells: int, blocks: bool) -> str:
    full = min(cells, round(use * cells))
    return ("█" if blocks else "#") * full + ("·" if blocks else ".") * (cells - full)


def _has_blocks(console: Console) -> bool:
    return console.encoding.lower().replace("-", "") == "utf8"


def _balance_table(balance: Mapping[str, Any]) -> Table:
    types = {name: counts for name, counts in balance.items() if isinstance(counts, Mapping)}
    columns = [name for name in BALANCE_COLUMNS if any(name in counts for counts in types.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("load balance", no_wrap=True)
    for name in columns:
        table.add_column(BALANCE_COLUMNS[name], justify="right", no_wrap=True)
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
        value = "not a figure of this run" if check["value"] is None else check["value"]
        line = f"check {check['figure']}: expected {check['expected']}, got {value}: "
        yield Text(line).append(word, style=colour)


def _comparison_row(comparison: Comparison, wide: bool) -> list[str | Text]:
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
        *([spread] if wide else []),
        ratio,
        *(["calibrated" if figure.calibrated else "predicted"] if wide else []),
        Text(comparison.verdict, style=colour),
    ]


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
