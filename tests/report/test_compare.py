"""Runs side by side: what is noise, what differs, where figures flip, and how that is printed."""

import io
from typing import Any

import pytest
from rich.console import Console

from emulator.report.compare import Axis, Column, Comparison, as_plain, figure_name, figure_of
from emulator.report.markdown import as_markdown
from emulator.report.side_by_side import cell, render_comparison

GRAN = "kernel.sysctl.kernel.sched_wakeup_granularity_ns"
LOOP = {"pattern": "pushed", "task": "fio/1", "rate_per_s": 60.0, "cpus": [1, 2], "share": 1.0}


def run(migrations_per_s: float, iops: float = 9000.0, **more: Any) -> dict[str, Any]:
    """Return the figures of a run of one second."""
    return {
        "window_s": 1.0,
        "iops": iops,
        "migrations_per_s": migrations_per_s,
        "migrations_by_cause": {"wakeup": migrations_per_s, "nohz": 2, "periodic": 1},
        "queue_to_start_us": {"p50": 3.3 if migrations_per_s < 3 else 4000.0},
        "cpu_utilisation": {"0": 0.5, "1": 0.009, "2": 0.01},
        "loops": [LOOP] if migrations_per_s >= 3 else [],
        **more,
    }


def sweep(rates: list[float]) -> Comparison:
    """Return a comparison along the granularity, a run per rate."""
    words = tuple(f"{number}ms" for number in range(1, len(rates) + 1))
    axis = Axis(GRAN, words, tuple(range(1, len(rates) + 1)))
    columns = [Column((word,), (run(rate),)) for word, rate in zip(words, rates, strict=True)]
    return Comparison("a sweep", columns, [axis], ("iops", "migrations_per_s"))


def printed(comparison: Comparison, width: int = 80) -> str:
    """Return what is printed into a pipe."""
    file = io.StringIO()
    render_comparison(comparison, Console(file=file, width=width))
    return file.getvalue()


def test_figures_are_read_as_rates_and_numbers() -> None:
    one = {**run(8), "window_s": 2.0}
    assert figure_of(one, "migrations_by_cause.wakeup") == 4.0
    assert figure_of(one, "migrations_by_cause.pull") == 1.5
    assert figure_of(one, "queue_to_start_us.p50") == 4000.0
    assert figure_of(one, "cpus_touched") == 2
    assert figure_of(one, "queue_to_start_us") is None
    assert figure_of(one, "no.such") is None
    assert figure_name("migrations_by_cause.wakeup") == "wakeup moves/s"


@pytest.mark.parametrize(
    ("first", "other", "differs"),
    [
        ((60.0,), (50.0,), False),  # 3·√60 + 2 = 25
        ((60.0,), (20.0,), True),
        ((0.0,), (4.0,), False),
        ((1000.0,), (1040.0,), False),
        ((1000.0,), (1200.0,), True),
        ((100.0, 200.0, 300.0), (250.0, 350.0, 450.0), False),  # the ranges overlap
        ((100.0, 110.0, 120.0), (250.0, 350.0, 450.0), True),
    ],
)
def test_what_differs_by_more_than_noise(
    first: tuple[float, ...], other: tuple[float, ...], differs: bool
) -> None:
    columns = [
        Column(("a",), tuple(map(run, first))),
        Column(("b",), tuple(map(run, other))),
    ]
    comparison = Comparison("two", columns)
    assert comparison.differs(columns[1], "migrations_per_s") is differs
    assert comparison.differs(columns[0], "migrations_per_s") is False
    assert comparison.differs(columns[1], "iops") is False


def test_the_median_over_the_seeds_is_compared() -> None:
    column = Column(("a",), (run(1), run(10), run(2)))
    value = Comparison("one", [column]).value(column, "migrations_per_s")
    assert value is not None
    assert (value.median, value.low, value.high) == (2, 1, 10)
    assert cell(value, "migrations_per_s") == "2 (1–10)"
    assert cell(None, "iops") == "–"
    times = Comparison("one", [column]).value(column, "queue_to_start_us.p50")
    assert cell(times, "queue_to_start_us.p50") == "3.3 µs (3.3 µs–4 ms)"


def test_a_flip_is_the_largest_step() -> None:
    flips = sweep([0.5, 1.0, 2.9, 60.0, 158.0]).flips()
    assert [flip.figure for flip in flips] == ["migrations_per_s", "queue_to_start_us.p50"]
    assert (flips[0].before, flips[0].after, flips[0].ratio) == ("3ms", "4ms", 20.0)
    assert sweep([0.0, 0.5, 2.9, 1.0]).flips() == []
    # Neither do words flip, nor a single value.
    words = Axis("kernel.version", ("5.4", "6.1"), None)
    columns = [Column(("5.4",), (run(0),)), Column(("6.1",), (run(99),))]
    assert Comparison("versions", columns, [words]).flips() == []
    assert sweep([99.0]).flips() == []


def test_flips_are_told_per_setting_of_the_other_axes() -> None:
    axes = [Axis("machine.cpus", ("2", "4"), (2, 4)), Axis(GRAN, ("1ms", "9ms", "2ms"), (1, 9, 2))]
    rates = {("2", "1ms"): 0, ("2", "9ms"): 90, ("2", "2ms"): 80}
    columns = [
        Column((cpus, gran), (run(rates.get((cpus, gran), 0.0)),))
        for cpus in axes[0].words
        for gran in axes[1].words
    ]
    comparison = Comparison("both", columns, axes, ("iops", "migrations_per_s"))
    [flip] = [one for one in comparison.flips() if one.figure == "migrations_per_s"]
    assert (flip.fixed, flip.before, flip.after) == (("2",), "1ms", "2ms")
    text = printed(comparison)
    assert "cpus 2: migrations_per_s rises from 0 to 80 between 1ms and 2ms (wakeup" in text
    assert "cpus 4: no figure flips between 1ms and 9ms (wakeup granularity)" in text
    # The same is said once of neighbours on the swept axis, in its order.
    rows = [line.split() for line in text.splitlines() if line.startswith(("2 ", "4 "))]
    assert rows == [
        ["2", "1ms", "9,000", "0"],
        ["2", "2ms", "9,000", "80*"],
        ["2", "9ms", "9,000", "90*"],
        ["4", "1ms", "to", "9ms", "9,000", "0"],
    ]
    assert "cpus 2: 2ms to 9ms: pushed" in text
    assert "cpus 4: 1ms to 9ms: none" in text


def test_a_few_columns_stand_side_by_side_with_ratios() -> None:
    columns = [Column(("none",), (run(60),)), Column(("kthread-stack",), (run(6, 9900.0),))]
    axis = Axis("kernel.policies", ("none", "kthread-stack"))
    figures = ("iops", "migrations_per_s", "queue_to_start_us.p50")
    text = printed(Comparison("two policies", columns, [axis], figures))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["two", "policies"]
    assert lines[2] == ["none", "kthread-stack", "ratio"]
    assert lines[3] == ["iops", "9,000", "9,900", "1.1*"]
    assert lines[4] == ["migrations_per_s", "60", "6", "0.1*"]
    assert lines[5] == ["queue_to_start_us.p50", "4", "ms", "4", "ms", "1"]
    assert "Flips" not in text
    assert "none, kthread-stack: fio/1 is pushed away by active balance, round CPUs 1" in text


def test_what_differs_from_nothing_has_no_ratio() -> None:
    columns = [Column(("a",), (run(0),)), Column(("b",), (run(60),))]
    text = printed(Comparison("two", columns, [], ("migrations_per_s",)))
    assert ["migrations_per_s", "0", "60", "*"] in [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_comparison_is_as_wide_as_the_terminal(width: int) -> None:
    lines = printed(sweep([0, 0, 1, 60, 61, 160, 180]), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("1ms to 2ms") for line in lines)


def test_a_comparison_as_plain_data() -> None:
    plain = as_plain(sweep([1.0, 60.0]))
    assert plain["axes"] == [{"key": GRAN, "values": ["1ms", "2ms"]}]
    assert plain["columns"][1]["set"] == {GRAN: "2ms"}
    assert plain["columns"][1]["figures"]["migrations_per_s"] == {
        "median": 60.0,
        "low": 60.0,
        "high": 60.0,
        "ratio": 60.0,
        "differs": True,
    }
    assert plain["columns"][1]["loops"] == [LOOP]
    assert plain["flips"][0] == {
        "figure": "migrations_per_s",
        "axis": GRAN,
        "others": [],
        "between": ["1ms", "2ms"],
        "values": [1.0, 60.0],
    }


# -- Boxes by words: who is best --------------------------------------------------------------------


def contest() -> Comparison:
    """Return two boxes, each with three policies, a run each."""
    axes = [Axis("box", ("tuned", "small")), Axis("kernel.completion", ("bound", "next", "inline"))]
    figures = {
        ("tuned", "bound"): run(80.0, 9500.0),
        ("tuned", "next"): run(0.0, 9400.0),
        ("tuned", "inline"): run(1.0, 9500.0),
        ("small", "bound"): run(12_000.0, 12_000.0),
        ("small", "next"): run(0.0, 13_000.0),
        ("small", "inline"): run(0.0, 15_000.0),
    }
    columns = [Column(words, (one,)) for words, one in figures.items()]
    return Comparison("two boxes", columns, axes, ("iops", "migrations_per_s", "works"))


def test_each_box_has_a_base_and_a_best_of_its_own() -> None:
    comparison = contest()
    bases = [comparison.base(column).words for column in comparison.columns]
    assert bases == [("tuned", "bound")] * 3 + [("small", "bound")] * 3
    found = {(best.figure, best.fixed): best for best in comparison.best()}
    assert list(found) == [
        ("iops", ("tuned",)),
        ("migrations_per_s", ("tuned",)),
        ("iops", ("small",)),
        ("migrations_per_s", ("small",)),
    ]
    assert found["iops", ("tuned",)].others == ()
    assert found["migrations_per_s", ("tuned",)].words == ("next", "inline")
    assert found["iops", ("small",)].words == ("inline",)
    assert found["migrations_per_s", ("small",)].others == ("bound",)
    assert as_plain(comparison)["best"][2] == {
        "figure": "iops",
        "others": ["small"],
        "words": ["inline"],
        "values": [15_000.0, 15_000.0],
    }


def test_who_is_best_is_told_in_words() -> None:
    text = printed(contest())
    assert "* differs from the first of its box by more than noise" in text
    assert "tuned: IOPS: all alike, 9,400–9,500" in text
    assert "tuned: moves/s: 0–1, all but bound" in text
    assert "small: IOPS: 15,000, inline" in text
    # Two words are no contest, nor are numbers.
    assert contest().contest() == 1
    assert sweep([1.0, 2.0, 60.0]).best() == []


def test_a_comparison_in_markdown_has_a_row_per_word() -> None:
    lines = as_markdown(contest()).splitlines()
    assert lines[:5] == [
        "| iops | tuned | small |",
        "|---|--:|--:|",
        "| `bound` | 9,500 | 12,000 |",
        "| `next` | 9,400 | 13,000 |",
        "| `inline` | 9,500 | **15,000** |",
    ]
    assert "| `next` | **0** | **0** |" in lines
    assert "* small: IOPS: 15,000, inline" in lines
    assert as_markdown(sweep([1.0, 60.0])).splitlines()[2] == "| `1ms` | 9,000 |"
