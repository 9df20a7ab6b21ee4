"""The same rings, byte for byte, however a box is run.

Each run is a process of its own, as a user would start it, and two go at once.  What is compared is
every ``*.ring`` of the run directories; where two differ, the first record in time that differs is
printed as ftrace text from both sides.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from shutil import rmtree

import pytest

from emulator import engines
from emulator import tracepoints as tp
from emulator.build import build_node, latencies
from emulator.config import list_boxes, load_box
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import Commands
from emulator.engine.windowbox import WindowBox
from emulator.plain import spec_to_plain
from emulator.rundir import RESULTS
from emulator.trace.ftrace import Lines
from emulator.trace.layout import Record
from emulator.trace.reader import RingReader, open_rings
from emulator.types import NSEC_PER_SEC
from emulator.units import duration_parse

REPOSITORY = Path(__file__).resolve().parent.parent
START = "from emulator.cli import main; main()"

#: How long one run may take of the host's time.
RUN_S_MAX = 100

AT_ONCE = 2

INLINE = ("--engine", "inline")
STRICT = ("--engine", "inline", "--strict")
PROCESSES = ("--engine", "processes")

HOTPLUG = "hotplug-and-load"
BOXES = [name for name, _ in list_boxes()]

#: What the runs compared must hold, by box: causes of migrations, and commands.
HOLDS = {
    "xfs-aio-512": {"wakeup"},
    "xfs-aio-512-24cpu": {"wakeup"},
    "xfs-aio-4k-tuned": {"active_balance"},
    "xfs-aio-4k-tuned-24cpu": {"active_balance"},
    HOTPLUG: {
        "active_balance",
        "hotplug",
        "cpu load",
        "cpu offline",
        "cpu kill",
        "cpu online",
        "sysctl",
    },
}


# -- Runs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to run a box: options of ``run``, settings of the box."""

    options: tuple[str, ...]
    settings: tuple[str, ...] = ()
    judged: bool = False  #: with its warm-up, and what it expects; else figures are from the start


def run_all(box: str, durations: Sequence[str], ways: Sequence[Way], places: list[Path]) -> None:
    """Run a box in several ways, two at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda *run: run_one(box, *run), durations, ways, places))


def run_one(box: str, duration: str, way: Way, place: Path) -> None:
    """Run a box in one way."""
    unjudged = () if way.judged else ("warmup=0ms", "expect=[]")
    settings = [word for one in (*unjudged, *way.settings) for word in ("--set", one)]
    command = [sys.executable, "-c", START, "run", box, "--for", duration, *way.options, *settings]
    done = subprocess.run(
        [*command, "--quiet", "--no-logs", "--out", str(place)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S_MAX,
    )
    # What a judged run has not passed, the caller finds in its results.
    assert done.returncode in ((0, 1) if way.judged else (0,)), (
        f"{box} {way}:\n{done.stdout}{done.stderr}"
    )


def assert_identical(
    box: str, duration: str, ways: Sequence[Way], scratch: Path
) -> tuple[Path, set[str]]:
    """Run a box in several ways and compare all with the first; return its directory, and what
    its rings hold.
    """
    places = [scratch / f"{number}" for number in range(len(ways))]
    run_all(box, [duration] * len(ways), ways, places)
    first, *others = places
    expected = hashes(first)
    assert len(expected) >= 2, "a CPU's and the coordinator's"
    for way, other in zip(ways[1:], others, strict=True):
        if hashes(other) != expected:
            pytest.fail(f"{box}: {ways[0]} and {way} differ\n{first_difference(first, other)}")
        rmtree(other)
    return first, held_by(first)


def hashes(directory: Path) -> dict[str, str]:
    """Return the hash of each ring of a run directory."""
    return {ring.name: hash_of(ring) for ring in sorted(directory.glob("*.ring"))}


def hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# -- What differs, what is in them ------------------------------------------------------------------


def first_difference(one: Path, other: Path) -> str:
    """Return the first record in time in which the rings of two run directories differ, as text."""
    names = sorted({ring.name for place in (one, other) for ring in place.glob("*.ring")})
    found = [difference(one / name, other / name) for name in names]
    _time_ns, text = min((item for item in found if item is not None), default=(0, "nothing"))
    return text


def difference(one: Path, other: Path) -> tuple[int, str] | None:
    """Return the time of the first record in which two rings differ, and both sides of it."""
    missing = [ring for ring in (one, other) if not ring.exists()]
    if missing:
        return -1, f"{missing[0]} is not there"
    readers = (RingReader(one), RingReader(other))
    pairs = zip_longest(readers[0].records(), readers[1].records())
    for position, pair in enumerate(pairs, max(reader.first for reader in readers)):
        if pair[0] != pair[1]:
            time_ns = min(record[0] for record in pair if record is not None)
            sides = [side(*item) for item in zip(readers, pair, strict=True)]
            return time_ns, f"{one.name} from record {position} on:\n" + "\n".join(sides)
    if hash_of(one) != hash_of(other):
        return 1 << 62, f"{one.name}: same records, but not the same names or header"
    return None


def side(reader: RingReader, record: Record | None) -> str:
    if record is None:
        return "  no record"
    return f"  {record[0]} ns {tp.TRACEPOINTS[record[1]].name}: {Lines(reader).line(record)}"


def held_by(directory: Path) -> set[str]:
    """Return the causes of migrations and the verbs of commands that the rings of a run hold."""
    held: set[str] = set()
    for reader in open_rings(directory):
        for record in reader.records():
            if record[1] == tp.SCHED_MIGRATE_TASK:
                held.add(tp.MIGRATE_CAUSES[record[10]])
            elif record[1] == tp.BOX_COMMAND:
                words = reader.names[record[6]].split()
                held.add(" ".join(words[: 2 if words[0] == "cpu" else 1]))
    return held


def count(directory: Path, event: int) -> int:
    """Return how many records of an event all rings hold."""
    return sum(
        record[1] == event for reader in open_rings(directory) for record in reader.records()
    )


# -- Every box that ships ---------------------------------------------------------------------------

#: Boxes whose CPUs and disks speak to each other at every IO: what they exchange in this time is more
#: than others do in seconds.
BRIEFLY = {
    "completion-cache-pool": "60ms",
    "completion-cache-pool-strict": "60ms",
    "completion-wq-unbound": "60ms",
    "dbench-fsync": "40ms",
    "tags-scarce": "60ms",
    "tags-shared": "60ms",
}


def duration_of(box: str) -> str:
    """Return how long a box is compared: until what must happen in it has happened."""
    if box in BRIEFLY:
        return BRIEFLY[box]
    if box in HOLDS and not box.endswith("24cpu"):
        return "2s"
    last_ns = max((event.at_ns for event in load_box(box).spec.events), default=0)
    return f"{max(200, last_ns // 1_000_000 + 100)}ms"


def judged_ns(box: str) -> int:
    """Return how long a box runs to be judged: to its end, or for a second after all has begun."""
    spec = load_box(box).spec
    if spec.events:
        return spec.duration_ns
    begun_ns = max([spec.warmup_ns, *(workload.start_ns for workload in spec.workloads)])
    return min(spec.duration_ns, begun_ns + NSEC_PER_SEC)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("box", BOXES)
def test_a_shipped_box_does_what_it_expects_and_the_same_in_every_engine(
    box: str, tmp_path: Path
) -> None:
    brief = duration_of(box)
    judged = f"{max(judged_ns(box), duration_parse(brief))}ns"
    inline, strict, processes = places = [tmp_path / name for name in ("inline", "strict", "procs")]
    ways = [Way(INLINE, judged=True), Way(STRICT), Way(PROCESSES)]
    run_all(box, [judged, brief, brief], ways, places)
    assert hashes(strict)
    if hashes(strict) != hashes(processes):
        pytest.fail(f"{box}: strict and processes differ\n{first_difference(strict, processes)}")
    differs = [text for ring in strict.glob("*.ring") if (text := beginning(inline, ring))]
    assert not differs, f"{box}: inline and strict differ\n" + "\n".join(differs)
    assert held_by(strict) >= HOLDS.get(box, set())
    results = json.loads((inline / RESULTS).read_text(encoding="utf-8"))
    assert results["checks"], "a box says what must come out of it"
    assert [check for check in results["checks"] if not check["ok"]] == []
    assert results["valid"] is True
    for place in places:
        rmtree(place)


def beginning(longer: Path, ring: Path) -> str:
    """Return what differs between a ring and as much of the same ring of a longer run, if anything."""
    short, long = RingReader(ring), RingReader(longer / ring.name)
    assert short.lost == long.lost == 0
    pairs = zip(short.pieces(), long.pieces(0, short.position), strict=True)
    same = all(one.words == other.words for one, other in pairs)
    if not same or long.position < short.position:
        pairs_of_records = zip_longest(short.records(), long.records(0, short.position))
        first = next(pair for pair in pairs_of_records if pair[0] != pair[1])
        return "\n".join((ring.name, side(long, first[1]), side(short, first[0])))
    named = long.names[: len(short.names)] == short.names
    known = long.comms.items() >= short.comms.items()
    return "" if named and known else f"{ring.name}: same records, but not the same names"


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
def test_schedules_off_is_the_same_where_cpus_come_and_go(tmp_path: Path) -> None:
    off = ("disks.sda.schedules=false",)
    ways = [Way(INLINE), Way(PROCESSES, off), Way(INLINE, off)]
    directory, held = assert_identical(HOTPLUG, "2s", ways, tmp_path)
    assert held >= HOLDS[HOTPLUG]
    assert count(directory, tp.BOX_DOORBELL) > 10_000
    rmtree(directory)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_schedules_off_is_the_same_where_the_submitter_wanders(tmp_path: Path) -> None:
    off = ("disks.sda.schedules=false",)
    ways = [Way(INLINE), Way(PROCESSES, off)]
    _, held = assert_identical("xfs-aio-512", "200ms", ways, tmp_path)
    assert "wakeup" in held


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_one_host_cpu_and_two_are_the_same(tmp_path: Path) -> None:
    usable = sorted(os.sched_getaffinity(0))[:2]
    settings = [f"machine.host_cpus={','.join(map(str, usable[:nr]))}" for nr in (1, 2)]
    ways = [Way(INLINE), *(Way(PROCESSES, (one,)) for one in settings)]
    _, held = assert_identical(HOTPLUG, "2s", ways, tmp_path)
    assert held >= HOLDS[HOTPLUG]


@pytest.mark.box
@pytest.mark.timeout(120)
def test_the_seed_decides_the_rings(tmp_path: Path) -> None:
    seven = ("--seed", "7")
    ways = [Way((*INLINE, *seven)), Way((*INLINE, *seven)), Way((*PROCESSES, *seven))]
    first, _ = assert_identical("xfs-aio-4k-tuned", "300ms", ways, tmp_path / "same")
    run_one("xfs-aio-4k-tuned", "300ms", Way((*INLINE, "--seed", "8")), tmp_path / "other")
    assert hashes(first).keys() == hashes(tmp_path / "other").keys()
    assert hashes(first) != hashes(tmp_path / "other")


# -- Proposals and versions -------------------------------------------------------------------------


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize("policies", ["delayed-wake-list", "preempt-kthread, completion-sync-hint"])
def test_a_proposal_is_the_same_across_processes(policies: str, tmp_path: Path) -> None:
    proposed = (f"kernel.policies=[{policies}]",)
    ways = [Way(INLINE, proposed), Way(STRICT, proposed), Way(PROCESSES, proposed)]
    directory, held = assert_identical(HOTPLUG, "2s", ways, tmp_path)
    assert {"cpu kill", "cpu load", "cpu offline"} <= held
    whys = {
        record[-1]
        for reader in open_rings(directory)
        for record in reader.records()
        if record[1] == tp.BOX_CHECK_PREEMPT
    }
    assert whys & {tp.PREEMPT_DELAYED, tp.PREEMPT_KTHREAD_AHEAD}


# -- Unbound work -----------------------------------------------------------------------------------

#: CPUs come and go while completions are anybody's work.
CPUS_GO = """[{at: 20ms, do: cpu offline 3}, {at: 30ms, do: 'cpu offline of:fio'},
  {at: 45ms, do: 'cpu kill of:fio'}, {at: 60ms, do: cpu online 3},
  {at: 70ms, do: cpu load 2 --percent 80}, {at: 80ms, do: cpu offline 1},
  {at: 90ms, do: 'cpu offline of:fio'}, {at: 110ms, do: cpu online 1}]"""
UNBOUND_DIO = ("kernel.workqueue.unbound=[dio]", f"events={CPUS_GO}")


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("box", "settings"),
    [
        ("xfs-aio-512", ()),
        ("xfs-aio-4k-6.12", ("machine={cpus: 8, llc: [0-3, 4-7]}",)),
        (
            "xfs-aio-4k-6.12",
            ("machine={cpus: 8, llc: [0-3, 4-7]}", "kernel.workqueue.affinity_strict=true"),
        ),
    ],
    ids=["512", "scopes", "strict-scopes"],
)
def test_unbound_work_is_the_same_across_processes(
    box: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    asked = (*UNBOUND_DIO, *settings)
    ways = [Way(how, asked) for how in (INLINE, STRICT, PROCESSES)]
    directory, held = assert_identical(box, "130ms", ways, tmp_path)
    assert held >= {"cpu kill", "cpu offline", "cpu online"}
    comms = {comm for reader in open_rings(directory) for comm in reader.comms.values()}
    assert any(comm.startswith("kworker/u") for comm in comms)
    assert count(directory, tp.WORKQUEUE_EXECUTE_START) > 400


#: Items that sleep, hold their pool up, wait for max_active; in every kind of pool.
MODULE = (
    "workloads.0.cpus_allowed=0-7",
    "workloads.0.params.period_ns=3ms",
    (
        "workloads.0.params.items='events: 3ms; events: 300us 200us 300us; events: 100us; "
        "1ms 500us 200us; 2ms; 10us; events_highpri: 100us; cpu_intensive: 1ms; xfs-sync: 5us 2ms; "
        "cancel w2; flush events; drain events_unbound; events: 20us; flush xfs-sync'"
    ),
    "kernel.workqueue.max_active={xfs-sync: 1}",
    "kernel.workqueue.cpu_intensive_thresh=1ms",
    (
        "events=[{at: 20ms, do: cpu offline 3}, {at: 30ms, do: 'cpu offline of:burst'},"
        "{at: 45ms, do: 'cpu kill of:burst'}, {at: 60ms, do: cpu online 3},"
        "{at: 80ms, do: cpu offline 1}, {at: 90ms, do: 'cpu offline of:burst'},"
        "{at: 110ms, do: cpu online 1}]"
    ),
)


@pytest.mark.box
@pytest.mark.timeout(120)
def test_a_modules_works_are_the_same_across_processes(tmp_path: Path) -> None:
    ways = [Way(how, MODULE) for how in (INLINE, STRICT, PROCESSES)]
    directory, held = assert_identical("workqueue-scopes", "130ms", ways, tmp_path)
    assert held >= {"cpu kill", "cpu offline", "cpu online"}
    assert count(directory, tp.WORKQUEUE_EXECUTE_START) > 150


# -- Completion policies ----------------------------------------------------------------------------


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("box", "completion"),
    [
        ("xfs-aio-512", "next-online"),
        ("xfs-aio-512", "caller"),
        ("xfs-aio-4k-tuned", "caller"),
        ("xfs-aio-4k-tuned", "round-robin:3"),
        ("xfs-aio-4k-tuned", "unless-saturated:stint=50us"),
        ("xfs-aio-4k-tuned", "rescue"),
    ],
)
def test_a_completion_policy_is_the_same_across_processes(
    box: str, completion: str, tmp_path: Path
) -> None:
    asked = (f"kernel.completion={completion}", f"events={CPUS_GO}")
    ways = [Way(how, asked) for how in (INLINE, STRICT, PROCESSES)]
    directory, held = assert_identical(box, "130ms", ways, tmp_path)
    assert held >= {"cpu kill", "cpu offline", "cpu online"}
    assert count(directory, tp.BOX_COMPLETION) > 400


# -- Many CPUs --------------------------------------------------------------------------------------


#: Policies that a box goes over to in turn, each with writes in flight that an earlier one sent about.
IN_TURN = (
    *("submitter", "next-online", "system-wq", "round-robin:3", "caller", "wq-cache-bound"),
    *("inline-overwrite", "unless-saturated:nr_running+worklist=4", "caller", "bound"),
)


@pytest.mark.box
@pytest.mark.timeout(120)
def test_completion_policies_that_change_in_mid_run_are_the_same_across_processes(
    tmp_path: Path,
) -> None:
    lines = [
        f'{{at: {20_000_000 * turn + 137_731 * turn % 900_001}ns, do: "completion {name}"}}'
        for turn, name in enumerate(IN_TURN, 1)
    ]
    lines += ["{at: 90ms, do: cpu offline of:fio}", "{at: 155ms, do: cpu kill of:fio}"]
    settings = (f"events=[{', '.join(lines)}]",)
    ways = [Way(INLINE, settings), Way(STRICT, settings), Way(PROCESSES, settings)]
    directory, held = assert_identical("xfs-aio-4k-tuned", "230ms", ways, tmp_path)
    assert {"completion", "cpu kill", "hotplug"} <= held
    answers = (directory / "commands.yaml").read_text()
    assert answers.count('"answer": "done"') == len(IN_TURN)


@pytest.mark.box
@pytest.mark.timeout(120)
def test_24_cpus_in_one_cache_are_the_same_as_processes(tmp_path: Path) -> None:
    wide = ("machine.cpus=24",)
    ways = [Way(INLINE, wide), Way(PROCESSES, wide)]
    assert_identical("xfs-aio-4k-tuned", "500ms", ways, tmp_path)


@pytest.mark.box
@pytest.mark.timeout(120)
def test_masks_of_72_cpus_pass_between_processes(tmp_path: Path) -> None:
    wide = ("machine.cpus=72",)
    ways = [Way(INLINE, wide), Way(STRICT, wide), Way(PROCESSES, wide)]
    _, held = assert_identical("xfs-aio-4k-tuned", "320ms", ways, tmp_path)
    assert "active_balance" in held


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("box", "settings", "duration"),
    [
        ("xfs-aio-4k-tuned", ("machine.cpus=24",), "150ms"),
        ("xfs-aio-512", ("disks.sda.schedules=false",), "30ms"),
        ("xfs-aio-512", ("kernel.workqueue.unbound=[dio]",), "30ms"),
    ],
    ids=["24cpu", "512", "unbound"],
)
def test_replies_in_any_order_leave_the_rings_of_plain_time_order(
    box: str, settings: tuple[str, ...], duration: str, order: int, tmp_path: Path
) -> None:
    spec = load_box(box, (*settings, "warmup=0ms"), None, duration).resolve()
    expected = tmp_path / "inline"
    expected.mkdir()
    outcome = engines.run(engines.INLINE, engines.Job(spec, expected, lambda _ns, _who="": True))
    assert (outcome.status, outcome.error) == (0, "")
    found = tmp_path / "windows"
    found.mkdir()
    nr_cpus, plain = spec.machine.nr_cpus, spec_to_plain(spec)
    everybody = range(engines.plan_of(engines.Job(spec, found, lambda _ns, _who="": True)).nr_nodes)
    boards = [HistoryBoard(len(everybody), keep_fresh=node != nr_cpus) for node in everybody]
    nodes = [build_node(node, plain, str(found), boards[node]) for node in everybody]
    pick = Random(order).randrange
    windows = WindowBox(nodes, nr_cpus, boards, latencies(spec), spec.duration_ns, pick)
    for message in Commands().give_timed(engines.commands_of(spec, engines.MACHINE)):
        windows.core.post(message)
    windows.run()
    if hashes(found) != hashes(expected):
        pytest.fail(first_difference(expected, found))


# -- Other machines ---------------------------------------------------------------------------------

#: By name: what the box's machine is instead.
MACHINES = {
    "smt": "{cpus: 32, smp: {sockets: 2, cores: 8, threads: 2}, nodes: [0-15, 16-31]}",
    "numa": "{cpus: 16, smp: {sockets: 4, cores: 4}, nodes: [0-3, 4-7, 8-11, 12-15], "
    "node_distance: [[10, 20, 40, 40], [20, 10, 40, 40], [40, 40, 10, 20], [40, 40, 20, 10]]}",
    "sockets": "{cpus: 16, smp: {sockets: 16, cores: 1}, llc: []}",
    "poll": "{cpus: 8, idle: poll}",
    "clusters": "{cpus: 8, clusters: [0-3, 4-7]}",
}
#: Sleepers, hogs, execs, and what happens to CPUs and masks meanwhile.
WORK = """[{fio: ../jobs/xfs-aio-512.fio, count: 3}, {program: hog, count: 2},
  {program: periodic, count: 6, params: {period_ns: 1ms, run_ns: 300us}},
  {program: execs, count: 3, params: {run_ns: 700us}}]"""
EVENTS = """[{at: 50ms, do: cpu offline 3}, {at: 80ms, do: task affine fio 0-1},
  {at: 100ms, do: task affine hog 1-2}, {at: 120ms, do: cpu online 3},
  {at: 130ms, do: 'cpu offline of:sh'}, {at: 150ms, do: task affine fio 0-7},
  {at: 160ms, do: cpu load 2 --percent 40}, {at: 170ms, do: cpu offline 2}]"""
CROWD = ("disks.sda.dev_size_mb=18500", f"workloads={WORK}", f"events={EVENTS}")


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("smt", "5.4"),
        ("smt", "6.1"),
        ("numa", "5.15"),
        ("sockets", "5.4"),
        ("poll", "5.10"),
        ("clusters", "6.12"),
    ],
)
def test_other_machines_are_the_same_inline_strict_and_as_processes(
    name: str, version: str, tmp_path: Path
) -> None:
    settings = (f"machine={MACHINES[name]}", f'kernel.version="{version}"', *CROWD)
    ways = [Way(how, settings) for how in (INLINE, STRICT, PROCESSES)]
    directory, held = assert_identical("xfs-aio-512", "300ms", ways, tmp_path)
    assert held >= {"exec", "hotplug", "task", "cpu load", "cpu offline", "cpu online"}
    rmtree(directory)


# -- Grace periods ----------------------------------------------------------------------------------

RCU = """
description: grace periods beside two submitters, and ticks kept for callbacks
duration: 100ms
machine: {cpus: 4, hz: 250}
kernel: {preset: throughput-performance, rcu_callbacks: true, rcu_needs_cpu: true}
disks: {sda: {driver: scsi_debug, scheduler: mq-deadline, ndelay: 41us, dev_size_mb: 256}}
filesystems: {/mnt: {type: xfs, disk: sda, block_size: 4k}}
workloads:
  - {fio: job.fio}
  - {program: rcu_gp}
  - {program: fio_main}
events:
  - {at: 50ms, do: cpu offline 1}
  - {at: 80ms, do: cpu online 1}
"""


@pytest.mark.box
@pytest.mark.timeout(120)
def test_grace_periods_are_the_same_across_processes(tmp_path: Path) -> None:
    (tmp_path / "job.fio").write_text(JOB)
    box = tmp_path / "rcu.yaml"
    box.write_text(RCU)
    ways = [Way(INLINE), Way(STRICT), Way(PROCESSES)]
    directory, _ = assert_identical(str(box), "100ms", ways, tmp_path)
    (pid,) = {
        pid
        for reader in open_rings(directory)
        for pid, comm in reader.comms.items()
        if comm.startswith("rcu_sched")
    }
    wakers = [
        record[4]
        for reader in open_rings(directory)
        for record in reader.records()
        if record[1] == tp.SCHED_WAKING and record[6] == pid
    ]
    assert len(wakers) > 10
    assert any(wakers), "no report has ever woken rcu_sched"


# -- Pipes ------------------------------------------------------------------------------------------

PIPES = """
description: pipes between tasks that move, and hogs in their way
duration: 60ms
machine: {cpus: 4, hz: 250}
workloads:
  - {program: fanout, params: {workers: 6, period_ns: 1ms, work_ns: 150us}}
  - {program: xwake, params: {gap_ns: 300us, waker_cpu: 0, wakee_cpu: 1}}
  - {program: pingpong, params: {rounds: 60}, start: 5ms}
  - {program: hog, count: 2, params: {begin_ns: 10ms}, start: 1ms}
  - {program: periodic, params: {period_ns: 2ms, run_ns: 500us}, start: 20ms, cpus_allowed: "of:hog"}
events:
  - {at: 30ms, do: cpu offline 1}
  - {at: 45ms, do: cpu online 1}
"""


@pytest.mark.box
@pytest.mark.timeout(120)
def test_pipes_are_the_same_across_processes(tmp_path: Path) -> None:
    box = tmp_path / "pipes.yaml"
    box.write_text(PIPES)
    ways = [Way(INLINE), Way(STRICT), Way(PROCESSES)]
    directory, held = assert_identical(str(box), "60ms", ways, tmp_path)
    assert held >= {"wakeup", "affinity", "hotplug", "cpu offline"}
    assert count(directory, tp.SCHED_WAKING) > 500


# -- null_blk ---------------------------------------------------------------------------------------

NULL_BLK = """
description: two submitters and two tasks in their way, on null_blk
duration: 20ms
machine: {{cpus: 4}}
disks: {{nullb0: {{driver: null_blk, {params}}}}}
filesystems: {{/mnt: {{type: xfs, disk: nullb0, block_size: 4k}}}}
workloads:
  - {{fio: job.fio}}
  - {{program: periodic, params: {{run_ns: 700us, period_ns: 1500us}}, count: 2, start_cpu: 1}}
events:
  - {{at: 14ms, do: cpu offline 1}}
"""

JOB = """
[job]
ioengine=libaio
direct=1
rw=randwrite
bs=4k
iodepth=16
size=64m
overwrite=1
numjobs=2
directory=/mnt
"""


def null_blk_box(directory: Path, params: str) -> str:
    """Write a box with a null_blk disk and return its path."""
    (directory / "job.fio").write_text(JOB)
    box = directory / "null-blk.yaml"
    box.write_text(NULL_BLK.format(params=params))
    return str(box)


def ways_of_null_blk(*, off: bool) -> Iterable[Way]:
    """Return the ways to run a null_blk box: with schedules in all engines, and without."""
    yield from (Way(INLINE), Way(PROCESSES), Way(STRICT))
    if off:
        settings = ("disks.nullb0.schedules=false",)
        yield from (Way(INLINE, settings), Way(PROCESSES, settings))


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize("submit_queues", [1, 4])
@pytest.mark.parametrize("irqmode", [0, 1, 2])
def test_null_blk_is_the_same_in_every_engine(
    irqmode: int, submit_queues: int, tmp_path: Path
) -> None:
    box = null_blk_box(tmp_path, f"irqmode: {irqmode}, submit_queues: {submit_queues}")
    ways = list(ways_of_null_blk(off=irqmode == 2))
    directory, held = assert_identical(box, "20ms", ways, tmp_path)
    assert {"hotplug", "cpu offline"} <= held
    assert count(directory, tp.BLOCK_RQ_COMPLETE) > 1000
    assert count(directory, tp.BOX_DOORBELL) > 500
    timers = count(directory, tp.HRTIMER_EXPIRE_ENTRY)
    assert (timers > 1000) == (irqmode == 2)


@pytest.mark.box
@pytest.mark.timeout(60)
def test_a_service_too_short_to_be_asked_for_is_the_same(tmp_path: Path) -> None:
    box = null_blk_box(tmp_path, "irqmode: 2, completion_nsec: 300")
    off = ("disks.nullb0.schedules=false",)
    assert_identical(box, "20ms", [Way(INLINE), Way(PROCESSES, off)], tmp_path)


# -- Tags and the drain of hardware queues ----------------------------------------------------------

FEW_TAGS = ("disks.sda.max_queue=3", "disks.sda.ndelay=1ms", "disks.sda.dev_size_mb=65536")
DRAINED = (
    "disks.sda.submit_queues=8",
    "disks.sda.ndelay=7ms",
    "disks.sda.max_queue=8",
    "kernel.rules.hctx_drain=true",
    "kernel.rules.sbq_global_count=true",
)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_few_tags_are_the_same_across_processes(scheduler: str, tmp_path: Path) -> None:
    few = (*FEW_TAGS, f"disks.sda.scheduler={scheduler}", "workloads.0.count=6")
    ways = [Way(INLINE, few), Way(STRICT, few), Way(PROCESSES, few)]
    directory, _ = assert_identical("xfs-aio-4k-default", "150ms", ways, tmp_path)
    assert count(directory, tp.BLOCK_RQ_COMPLETE) > 300
    rmtree(directory)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
def test_hardware_queues_are_drained_the_same_across_processes(tmp_path: Path) -> None:
    ways = [Way(INLINE, DRAINED), Way(STRICT, DRAINED), Way(PROCESSES, DRAINED)]
    directory, held = assert_identical(HOTPLUG, "2s", ways, tmp_path)
    assert {"cpu offline", "cpu kill", "cpu online"} <= held
    rmtree(directory)
