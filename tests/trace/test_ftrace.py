"""Tests of the ftrace text: the lines of the specification, without the flags column."""

import io
import re
from pathlib import Path

import pytest

from emulator.rules import rules_of
from emulator.trace.ftrace import (
    TextStyle,
    cpu_lines,
    flags_header,
    follow_lines,
    header,
    merged_lines,
    write_log,
)
from emulator.trace.reader import RingReader
from emulator.trace.ring import MemoryRing, Ring
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_ISSUE,
    BOX_BUG,
    CPUHP_ENTER,
    F_HARDIRQ,
    F_IRQS_OFF,
    F_NEED_RESCHED,
    F_SOFTIRQ,
    SCHED_MIGRATE_TASK,
    SCHED_STAT_RUNTIME,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKING,
    SOFTIRQ_ENTRY,
    TASK_IDLE,
    TASK_PREEMPTED,
    TRACEPOINTS,
    WORKQUEUE_QUEUE_WORK,
)

#: The header regex of LISA's parser: no digits may stand between the CPU and the time.
LISA = re.compile(r"^\s*(?P<comm>.+)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\D+(?P<sec>\d+)\.(?P<us>\d+): ")

COMMS = {5120: "fio", 187: "kworker/3:1", 28: "migration/3"}


def ring_of(cpu: int) -> MemoryRing:
    """Return a ring of a CPU that knows the tasks of the sample lines."""
    ring = MemoryRing(f"cpu{cpu}", cpu)
    for pid, comm in COMMS.items():
        ring.comm(pid, comm)
    return ring


def lines_of(ring: MemoryRing) -> list[str]:
    """Return all lines of a ring."""
    return list(cpu_lines(RingReader.from_memory(ring)))


def test_sample_lines_H_1() -> None:
    ring = ring_of(3)
    ring.emit(1_234_567_890_000, SCHED_WAKING, 0, 5120, 0, 187, 120, 3)
    ring.emit(1_234_567_892_000, SCHED_WAKEUP, 0, 5120, 0, 187, 120, 3)
    ring.emit(1_234_567_895_000, SCHED_STAT_RUNTIME, 0, 5120, 0, 5120, 412_345, 1_003_200_000)
    ring.emit(1_234_567_896_000, SCHED_SWITCH, 0, 5120, 0, 5120, 120, 0, 187, 120)
    ring.emit(1_234_615_897_000, SCHED_MIGRATE_TASK, 0, 28, 0, 5120, 120, 3, 1, 2)
    assert lines_of(ring) == [
        (
            "             fio-5120  [003]  1234.567890: sched_waking: comm=kworker/3:1 pid=187 prio=120 "
            "target_cpu=003"
        ),
        (
            "             fio-5120  [003]  1234.567892: sched_wakeup: comm=kworker/3:1 pid=187 prio=120 "
            "target_cpu=003"
        ),
        (
            "             fio-5120  [003]  1234.567895: sched_stat_runtime: comm=fio pid=5120 "
            "runtime=412345 [ns] vruntime=1003200000 [ns]"
        ),
        (
            "             fio-5120  [003]  1234.567896: sched_switch: prev_comm=fio prev_pid=5120 "
            "prev_prio=120 prev_state=R ==> next_comm=kworker/3:1 next_pid=187 next_prio=120"
        ),
        (
            "     migration/3-28    [003]  1234.615897: sched_migrate_task: comm=fio pid=5120 prio=120 "
            "orig_cpu=3 dest_cpu=1"
        ),
    ]


def test_sample_lines_H_1_of_the_idle_task() -> None:
    ring = ring_of(1)
    ring.emit(1_234_615_890_000, SCHED_WAKING, 0, 0, 0, 28, 0, 3)
    ring.emit(1_234_615_905_000, SCHED_SWITCH, 0, 0, 0, 0, 120, 0, 5120, 120)
    assert lines_of(ring) == [
        (
            "          <idle>-0     [001]  1234.615890: sched_waking: comm=migration/3 pid=28 prio=0 "
            "target_cpu=003"
        ),
        (
            "          <idle>-0     [001]  1234.615905: sched_switch: prev_comm=swapper/1 prev_pid=0 "
            "prev_prio=120 prev_state=R ==> next_comm=fio next_pid=5120 next_prio=120"
        ),
    ]


def test_example_H_7_1_times_are_rounded_to_the_microsecond() -> None:
    ring = ring_of(0)
    ring.emit(1_234_567_890_499, SOFTIRQ_ENTRY, 0, 0, 0, 4)
    ring.emit(1_234_567_890_500, SOFTIRQ_ENTRY, 0, 0, 0, 4)
    assert ["1234.567890:" in lines_of(ring)[0], "1234.567891:" in lines_of(ring)[1]] == [True] * 2


def test_example_H_7_4_states_are_letters() -> None:
    ring = ring_of(3)
    for state in (TASK_IDLE, 1, 2, TASK_PREEMPTED):
        ring.emit(1, SCHED_SWITCH, 0, 187, 0, 187, 120, state, 0, 120)
    states = [re.findall(r"prev_state=(\S+)", line)[0] for line in lines_of(ring)]
    assert states == ["I", "S", "D", "R+"]


def test_payloads_I_2_of_block_work_and_softirq_events() -> None:
    ring = ring_of(0)
    write, work, queue = (ring.intern(t) for t in ("WS", "iomap_dio_complete_work", "dio/sda"))
    ring.emit(1, BLOCK_RQ_ISSUE, 0, 5120, 0, 8 << 20, write, 1024, 8, 4096)
    ring.emit(1, BLOCK_RQ_COMPLETE, 0, 5120, 0, 8 << 20 | 16, write, 1024, 8, -5)
    ring.emit(1, WORKQUEUE_QUEUE_WORK, 0, 5120, 0, 0xB5B2614, work, queue, 8192, 0)
    ring.emit(1, SOFTIRQ_ENTRY, 0, 5120, 0, 4)
    ring.emit(1, CPUHP_ENTER, 0, 5120, 0, 3, 0, 151, work)
    bodies = [line.partition(": ")[2] for line in lines_of(ring)]
    assert bodies == [
        "block_rq_issue: 8,0 WS 4096 () 1024 + 8 [fio]",
        "block_rq_complete: 8,16 WS () 1024 + 8 [-5]",
        (
            "workqueue_queue_work: work struct=000000000b5b2614 function=iomap_dio_complete_work "
            "workqueue=dio/sda req_cpu=8192 cpu=0"
        ),
        "softirq_entry: vec=4 [action=BLOCK]",
        "cpuhp_enter: cpu: 0003 target:   0 step: 151 (iomap_dio_complete_work)",
    ]


def test_every_event_prints_and_every_line_has_the_header_that_lisa_reads() -> None:
    ring = ring_of(2)
    for event in TRACEPOINTS:
        ring.emit(5_000_000_000, event, 0, 5120, 0, 1, 1, 1, 1, 1)
    lines = lines_of(ring)
    assert len(lines) == len(TRACEPOINTS)
    for line, point in zip(lines, TRACEPOINTS.values(), strict=True):
        match = LISA.match(line)
        assert match is not None, line
        assert match["pid"] == "5120"
        assert line[match.end() :].startswith(f"{point.name}: ")


def test_events_and_times_are_filtered() -> None:
    ring = ring_of(0)
    for at in range(10):
        ring.emit(at * 1_000_000, SCHED_WAKING if at % 2 else SOFTIRQ_ENTRY, 0, 0, 0, 1)
    reader = RingReader.from_memory(ring)
    lines = list(cpu_lines(reader, ("sched_waking",), 3_000_000, 8_000_000))
    assert [re.findall(r"0\.00(\d)", line)[0] for line in lines] == ["3", "5", "7"]
    with pytest.raises(ValueError, match="'sched_walking' is not a tracepoint"):
        cpu_lines(reader, ("sched_walking",))


def test_merged_lines_come_by_time_and_then_by_cpu() -> None:
    rings = [ring_of(cpu) for cpu in (1, 0)]
    for ring, times in zip(rings, ((1, 5), (1, 3)), strict=True):
        for time_us in times:
            ring.emit(time_us * 1000, SOFTIRQ_ENTRY, 0, 0, 0, 4)
    lines = list(merged_lines([RingReader.from_memory(ring) for ring in rings]))
    found = [re.findall(r"\[(\d+)\]\s+0\.0*(\d)", line)[0] for line in lines]
    assert found == [("000", "1"), ("001", "1"), ("000", "3"), ("001", "5")]


def test_a_log_begins_with_the_number_of_cpus() -> None:
    ring = ring_of(0)
    bug = ring.intern("task 300 is on two runqueues")
    ring.emit(1, BOX_BUG, 0, 0, 0, bug)
    text = io.StringIO()
    assert write_log(RingReader.from_memory(ring), text, 8) == 1
    first, second = text.getvalue().splitlines()
    assert first == header(8) == "cpus=8"
    assert second.endswith("0.000000: box_bug: task 300 is on two runqueues")


def test_what_was_lost_is_said_first(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu0", 0, 2 * 4096, (), 4096)
    for at in range(200):
        ring.emit(at * 1000, SOFTIRQ_ENTRY, 0, 0, 0, 4)
    reader = RingReader(tmp_path / "r")
    lines = list(cpu_lines(reader))
    assert lines[0].endswith("0.000128: box_lost: records=128")
    assert len(lines) == 1 + 200 - 128
    assert "box_lost" not in next(cpu_lines(reader, from_ns=150_000))
    ring.close()


def test_a_live_ring_is_followed_with_names_that_come_later(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu0", 0)
    ring.emit(1000, SOFTIRQ_ENTRY, 0, 7, 0, 4)
    more = [True, True, False]

    def wait() -> bool:
        if len(more) == 2:
            ring.comm(9, "late")
            ring.emit(2000, SOFTIRQ_ENTRY, 0, 9, 0, 4)
        return more.pop(0)

    lines = list(follow_lines(RingReader(tmp_path / "r"), wait))
    assert [line.split("[")[0].strip() for line in lines] == ["<...>-7", "late-9"]
    ring.close()


def test_following_ends_with_the_window(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu0", 0)
    for at in range(5):
        ring.emit(at * 1000, SOFTIRQ_ENTRY, 0, 7, 0, 4)
    lines = list(follow_lines(RingReader(tmp_path / "r"), lambda: True, to_ns=3000))
    assert len(lines) == 3
    ring.close()


# -- Text by version (H.1) ----------------------------------------------------------------------


def style_of(version: str, flags: bool = True) -> TextStyle:
    """Return the style of a version's text."""
    return TextStyle.of_rules([name for name, on in rules_of(version) if on], flags)


def sample_ring() -> MemoryRing:
    """Return the records of the sample lines that CPU 3 recorded."""
    ring = ring_of(3)
    woken = F_IRQS_OFF | F_HARDIRQ
    ring.emit(1_234_567_890_000, SCHED_WAKING, woken, 5120, 0, 187, 120, 3)
    ring.emit(1_234_567_892_000, SCHED_WAKEUP, woken | F_NEED_RESCHED, 5120, 0, 187, 120, 3)
    ring.emit(1_234_567_895_000, SCHED_STAT_RUNTIME, 0, 5120, 0, 5120, 412_345, 1_003_200_000)
    ring.emit(1_234_567_896_000, SCHED_SWITCH, 0, 5120, 0, 5120, 120, 0, 187, 120)
    ring.emit(1_234_615_897_000, SCHED_MIGRATE_TASK, 0, 28, 0, 5120, 120, 3, 1, 2)
    return ring


def text_of(ring: MemoryRing, style: TextStyle) -> list[str]:
    """Return the lines of a ring in a style."""
    return list(cpu_lines(RingReader.from_memory(ring), style=style))


def test_sample_lines_H_1_of_5_4_with_flags() -> None:
    assert text_of(sample_ring(), style_of("5.4")) == [
        (
            "             fio-5120  [003] d.h.  1234.567890: sched_waking: "
            "comm=kworker/3:1 pid=187 prio=120 target_cpu=003"
        ),
        (
            "             fio-5120  [003] dNh.  1234.567892: sched_wakeup: "
            "comm=kworker/3:1 pid=187 prio=120 target_cpu=003"
        ),
        (
            "             fio-5120  [003] d...  1234.567895: sched_stat_runtime: "
            "comm=fio pid=5120 runtime=412345 [ns] vruntime=1003200000 [ns]"
        ),
        (
            "             fio-5120  [003] d...  1234.567896: sched_switch: prev_comm=fio prev_pid=5120 "
            "prev_prio=120 prev_state=R ==> next_comm=kworker/3:1 next_pid=187 next_prio=120"
        ),
        (
            "     migration/3-28    [003] d...  1234.615897: sched_migrate_task: "
            "comm=fio pid=5120 prio=120 orig_cpu=3 dest_cpu=1"
        ),
    ]


def test_sample_line_H_1_of_an_idle_cpu_in_a_softirq() -> None:
    ring = ring_of(1)
    flags = F_IRQS_OFF | F_NEED_RESCHED | F_SOFTIRQ
    ring.emit(1_234_615_890_000, SCHED_WAKING, flags, 0, 0, 28, 0, 3)
    assert text_of(ring, style_of("5.4")) == [
        (
            "          <idle>-0     [001] dNs.  1234.615890: sched_waking: "
            "comm=migration/3 pid=28 prio=0 target_cpu=003"
        )
    ]


@pytest.mark.parametrize(
    ("version", "prefix"),
    [
        ("5.4", "             fio-5120  [003] d...  1234.567896: "),
        ("5.6", "             fio-5120  [003] d...  1234.567896: "),
        ("5.10", "             fio-5120    [003] d...  1234.567896: "),
        ("5.15", "             fio-5120    [003] d....  1234.567896: "),
        ("6.12", "             fio-5120    [003] d....  1234.567896: "),
    ],
)
def test_prefixes_H_1_by_version(version: str, prefix: str) -> None:
    lines = text_of(sample_ring(), style_of(version))
    assert lines[3].startswith(prefix + "sched_switch: ")
    # The dialect without flags has the width alone.
    bare = text_of(sample_ring(), style_of(version, flags=False))
    assert bare[3].split("sched_switch")[0] == prefix.replace("d.... ", "").replace("d... ", "")
    assert LISA.match(bare[3])


@pytest.mark.parametrize(("version", "bare"), [("5.4", False), ("6.6", False), ("6.12", True)])
def test_bodies_H_1_of_sched_stat_runtime_by_version(version: str, bare: bool) -> None:
    line = text_of(sample_ring(), style_of(version))[2]
    ending = "runtime=412345 [ns]" + ("" if bare else " vruntime=1003200000 [ns]")
    assert line.endswith(f"sched_stat_runtime: comm=fio pid=5120 {ending}")


def test_headers_H_1_by_version() -> None:
    reader = RingReader.from_memory(sample_ring())
    assert flags_header(reader, 16, style_of("5.4")) == [
        "# tracer: nop",
        "#",
        "# entries-in-buffer/entries-written: 5/5   #P:16",
        "#",
        "#                              _-----=> irqs-off",
        "#                             / _----=> need-resched",
        "#                            | / _---=> hardirq/softirq",
        "#                            || / _--=> preempt-depth",
        "#                            ||| /     delay",
        "#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION",
        "#              | |       |   ||||       |         |",
    ]
    assert flags_header(reader, 16, style_of("6.12"))[4:] == [
        "#                                _-----=> irqs-off/BH-disabled",
        "#                               / _----=> need-resched",
        "#                              | / _---=> hardirq/softirq",
        "#                              || / _--=> preempt-depth",
        "#                              ||| / _-=> migrate-disable",
        "#                              |||| /     delay",
        "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION",
        "#              | |         |   |||||     |         |",
    ]
    # The flags stand below their explanation, wherever the pid ends.
    for version in ("5.4", "5.10", "6.12"):
        style = style_of(version)
        column = flags_header(reader, 16, style)[-1].index("||||")
        line = text_of(sample_ring(), style)[1]
        assert line[column : column + style.flag_chars] == "dNh.".ljust(style.flag_chars, ".")
