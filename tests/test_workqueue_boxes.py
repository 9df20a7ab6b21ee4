"""Workqueues through box files: the timelines of the kernel's documentation (io-and-workqueue.md F.17)."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator import engines
from emulator import tracepoints as tp
from emulator.config import BoxError, load_box
from emulator.trace.reader import RingReader

MS = 1_000_000

#: By CPU of the box: (start, sleep, end) of w0, w1 and w2 in ms since they were queued.
W1_TIMELINES = {
    0: [(0, 5, 20), (20, 25, 35), (35, 40, 50)],
    1: [(0, 5, 20), (5, 10, 20), (20, 25, 35)],
    2: [(0, 5, 20), (5, 10, 20), (10, 15, 25)],
    3: [(0, 5, 20), (5, 10, 20), (10, 15, 25)],
}


def timeline(directory: Path, cpu: int) -> list[tuple[int, int, int]]:
    """Return (start, first sleep, end) in ms of the works that one CPU queued, in their order."""
    queued: list[int] = []
    times: dict[int, list[int]] = {}
    running: dict[int, int] = {}  # worker -> its work
    origin = 0
    for record in RingReader(directory / f"cpu{cpu}.ring").records():
        time_ns, event, current, work = record[0], record[1], record[4], record[6]
        if event == tp.WORKQUEUE_QUEUE_WORK:
            origin = origin or time_ns
            queued.append(work)
        elif event == tp.WORKQUEUE_EXECUTE_START:
            running[current] = work
            times[work] = [time_ns]
        elif event == tp.WORKQUEUE_EXECUTE_END:
            times[work].append(time_ns)
            del running[current]
        elif event == tp.SCHED_SWITCH and work in running and record[8]:
            went = times[running[work]]  # of the previous task, which blocks
            if len(went) == 1:
                went.append(time_ns)
    found = []
    for work in queued:
        start, slept, end = (round((t - origin) / MS) for t in times[work])
        found.append((start, slept, end))
    return found


def test_example_F_17_W1_the_documentations_timelines_through_a_box_file(tmp_path: Path) -> None:
    spec = load_box("workqueue-timelines").resolve()
    outcome = engines.run(engines.INLINE, engines.Job(spec, tmp_path, lambda _ns, _who="": True))
    assert (outcome.status, outcome.error) == (0, "")
    assert {cpu: timeline(tmp_path, cpu) for cpu in range(4)} == W1_TIMELINES


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("kernel.workqueue.max_active={evnets: 3}", "did you mean events"),
        ("kernel.workqueue.max_active={events: 513}", "outside 1..512"),
        ("workloads.0.params.items='5ms; ;1ms'", "says no duration"),
        ("workloads.0.params.items='evnets: 5ms'", "did you mean events"),
        ("workloads.0.params.items='5'", "5"),
    ],
)
def test_what_is_refused(setting: str, complaint: str) -> None:
    with pytest.raises(BoxError, match=complaint):
        load_box("workqueue-timelines", (setting,)).resolve()
