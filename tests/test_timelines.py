"""The oracle boxes against two recorded cycles of a real kernel, event by event.

``tests/data/timeline_*.txt`` hold the cycles; their heads say what a line means.  The boxes run as
they are, rcu_sched and fio's main thread included; the stretch begins between two ticks, when
neither is due.  CPUs are renamed in the order in which they appear, so that any pair may
play the ping-pong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from emulator import engines
from emulator import tracepoints as tp
from emulator.config import load_box
from emulator.trace.layout import Record
from emulator.trace.reader import RingReader, open_rings
from emulator.types import NSEC_PER_MSEC

DATA = Path(__file__).parent / "data"
#: Where a stretch is looked for: one millisecond after a tick of a 250 Hz box.
BEGIN_NS = 41 * NSEC_PER_MSEC
END_NS = 43 * NSEC_PER_MSEC
TOLERANCE = 0.02

#: Tracepoint, name in a timeline, places of its arguments in a record from ``a`` on.
EVENTS = {
    tp.SCHED_SWITCH: ("switch", (2, 3)),
    tp.BLOCK_RQ_COMPLETE: ("complete", (1, 3)),
    tp.WORKQUEUE_QUEUE_WORK: ("queue", (1, 4)),
    tp.SCHED_WAKING: ("waking", (0, 2)),
    tp.SCHED_MIGRATE_TASK: ("migrate", (0, 2, 3)),
    tp.WORKQUEUE_EXECUTE_START: ("execute_start", (1,)),
    tp.WORKQUEUE_EXECUTE_END: ("execute_end", ()),
}
#: Arguments of an event that are CPU numbers, by place.
CPU_ARGUMENTS = {"queue": (1,), "waking": (1,), "migrate": (1, 2)}
#: Arguments, and the current task, whose names hold a CPU number.
CPU_NAMES = ("swapper/", "kworker/")


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a timeline; ``free`` if the interval that ends here is not compared."""

    time_ns: int
    cpu: int
    event: str
    words: tuple[str, ...]  #: the current task, then the arguments
    free: bool = False


# -- The recorded cycles ---------------------------------------------------------------------------


def recorded(name: str) -> list[Step]:
    """Read a timeline."""
    lines = (DATA / f"timeline_{name}.txt").read_text(encoding="utf-8").splitlines()
    return [step_of(line.split()) for line in lines if line and not line.startswith("#")]


def step_of(words: list[str]) -> Step:
    """Return the step of one line."""
    time_us, cpu, event, *rest = words
    time_ns = round(float(time_us.rstrip("*")) * 1000)
    return Step(time_ns, int(cpu), event, tuple(rest), time_us.endswith("*"))


# -- The emulated ones -----------------------------------------------------------------------------


def emulated(box: str, directory: Path, like: list[Step]) -> list[Step]:
    """Run an oracle box for a while and return as many steps as ``like`` has, from its first on."""
    spec = replace(load_box(f"oracle/{box}").resolve(), duration_ns=END_NS, warmup_ns=0)
    outcome = engines.run(engines.INLINE, engines.Job(spec, directory, lambda *_: True))
    assert outcome.status == 0, outcome.error
    steps = [step for ring in open_rings(directory) if ring.is_cpu for step in steps_in(ring)]
    steps.sort(key=lambda step: step.time_ns)  # stable: a CPU's own order is kept
    shape = shape_of(like[0])
    first = next(index for index, step in enumerate(steps) if shape_of(step) == shape)
    return steps[first : first + len(like)]


def steps_in(ring: RingReader) -> Iterator[Step]:
    """Yield the steps that a CPU recorded since the beginning of the stretch."""
    for record in ring.records(ring.position_at(BEGIN_NS)):
        if record[1] in EVENTS:
            event, places = EVENTS[record[1]]
            fields = [tp.TRACEPOINTS[record[1]].fields[place] for place in places]
            words = [task_name(ring, record[4])]
            for place, (_, kind) in zip(places, fields, strict=True):
                words.append(word_of(ring, record, place, kind))
            yield Step(record[0], ring.number, event, tuple(words))


def word_of(ring: RingReader, record: Record, place: int, kind: str) -> str:
    """Return one argument of a record as a timeline writes it."""
    value = int(record[6 + place])
    match kind:
        case "pid":
            return task_name(ring, value)
        case "str":
            return ring.names[value]
        case "state":
            return tp.STATE_LETTERS[value]
    return str(value)


def task_name(ring: RingReader, pid: int) -> str:
    """Return a task's comm."""
    return ring.comms[pid] if pid else f"swapper/{ring.number}"


def shape_of(step: Step) -> tuple[str, list[str]]:
    """Return what a step is, whatever the CPU."""
    return step.event, [word.partition("/")[0] for word in step.words]


# -- Comparing -------------------------------------------------------------------------------------


def renamed(steps: list[Step]) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return CPU, event and words with CPUs numbered in the order in which they appear."""
    numbers: dict[int, int] = {}
    for step in steps:
        numbers.setdefault(step.cpu, len(numbers))
    return [(numbers[step.cpu], step.event, tuple(renamed_words(step, numbers))) for step in steps]


def renamed_words(step: Step, numbers: dict[int, int]) -> Iterator[str]:
    """Yield a step's words with the new CPU numbers."""
    cpu_words = [place + 1 for place in CPU_ARGUMENTS.get(step.event, ())]
    for place, word in enumerate(step.words):
        if place in cpu_words:
            yield str(numbers[int(word)])
        elif word.startswith(CPU_NAMES):
            thread, _, rest = word.partition("/")
            cpu, colon, worker = rest.partition(":")
            yield f"{thread}/{numbers[int(cpu)]}{colon}{worker}"
        else:
            yield word


def intervals(steps: list[Step]) -> list[int]:
    """Return the time from each step to the next."""
    return [later.time_ns - step.time_ns for step, later in pairwise(steps)]


def compare(box: str, directory: Path, name: str) -> list[Step]:
    """Hold a box against a timeline, order, CPUs and intervals; return the timeline."""
    real = recorded(name)
    ours = emulated(box, directory, real)
    assert renamed(ours) == renamed(real)
    compared = [
        (step, real_ns, our_ns)
        for step, real_ns, our_ns in zip(real[1:], intervals(real), intervals(ours), strict=True)
        if not step.free
    ]
    off = [one for one in compared if abs(one[2] - one[1]) > TOLERANCE * one[1]]
    assert off == []
    return real


# -- The tests -------------------------------------------------------------------------------------


def test_golden_timeline_512_byte_cycles(tmp_path: Path) -> None:
    real = compare("A54-512-default", tmp_path, "512")
    # At least three whole cycles, each with one migration of fio by its kworker.
    moves = [step.words for step in real if step.event == "migrate"]
    assert [words[0].partition("/")[0] for words in moves] == ["kworker"] * 4
    # Left out is only what ends when the woken fio gets its CPU.
    assert {shape_of(step)[1][2] for step in real if step.free} == {"fio"}
    assert sum(step.free for step in real) == len(moves)


def test_golden_timeline_4k_default_cycles(tmp_path: Path) -> None:
    real = compare("W1-default", tmp_path, "4k_default")
    assert sum(step.event == "execute_end" for step in real) == 6
    assert [step.time_ns for step in real if step.free] == [144_840]


def test_an_interval_off_by_more_than_two_percent_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = recorded("512")
    changed[2:] = [replace(step, time_ns=step.time_ns + 400) for step in changed[2:]]
    monkeypatch.setattr(f"{__name__}.recorded", lambda _name: changed)
    with pytest.raises(AssertionError, match="18250"):
        compare("A54-512-default", tmp_path, "512")
