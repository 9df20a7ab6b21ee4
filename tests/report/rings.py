"""Rings that report tests are made of: two cycles of the oracle's timelines, written by hand."""

from emulator.trace.layout import cause_of
from emulator.trace.reader import RingReader
from emulator.trace.ring import MemoryRing
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BOX_AIO_COMPLETE,
    MIGRATE_WAKEUP,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKING,
    TASK_IDLE,
    WORKQUEUE_EXECUTE_END,
    WORKQUEUE_EXECUTE_START,
    WORKQUEUE_QUEUE_WORK,
)

FIO = 288
KWORKERS = (7, 36)
DIO_WORK = "iomap_dio_complete_work"


def new_rings(nr_cpus: int) -> list[MemoryRing]:
    """Return rings that know fio and one kworker per CPU."""
    rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(nr_cpus)]
    for ring in rings:
        ring.comm(FIO, "fio")
        for cpu, pid in enumerate(KWORKERS):
            ring.comm(pid, f"kworker/{cpu}:1")
    return rings


def readers_of(rings: list[MemoryRing]) -> list[RingReader]:
    """Return readers of rings as they are now."""
    return [RingReader.from_memory(ring) for ring in rings]


def switch(ring: MemoryRing, time_ns: int, prev: int, next_: int, state: int = 0) -> None:
    """Record a switch."""
    ring.emit(time_ns, SCHED_SWITCH, 0, prev, 0, prev, 120, state, next_, 120)


def cycles_of_512(count: int) -> tuple[list[MemoryRing], int]:
    """Write 512-byte cycles after TIMELINES.md; return the rings and the end of the last cycle.

    Each IO completes on the CPU that fio left; its kworker wakes fio, which goes to the other CPU.
    """
    rings = new_rings(2)
    start = 0
    for cycle in range(count):
        cpu = cycle % 2
        _cycle_of_512(rings, cpu, start, work=0x1000 + cycle)
        start += 77_690
    return rings, start


def _cycle_of_512(rings: list[MemoryRing], cpu: int, start: int, work: int) -> None:
    ring, kworker, other = rings[cpu], KWORKERS[cpu], 1 - cpu
    function, queue = ring.intern(DIO_WORK), ring.intern("dio/sda")
    switch(ring, start + 4_920, 0, FIO)
    switch(ring, start + 22_770, FIO, 0, 2)
    ring.emit(start + 62_990, BLOCK_RQ_COMPLETE, 0, 0, 0, 8 << 20, ring.intern("WS"), 127564, 1, 0)
    ring.emit(start + 63_940, WORKQUEUE_QUEUE_WORK, 0, 0, 0, work, function, queue, 8192, cpu)
    ring.emit(start + 64_660, SCHED_WAKING, 0, 0, 0, kworker, 120, cpu)
    switch(ring, start + 69_620, 0, kworker)
    ring.emit(start + 70_720, WORKQUEUE_EXECUTE_START, 0, kworker, 0, work, function)
    woken = ring.emit(start + 71_650, SCHED_WAKING, 0, kworker, 0, FIO, 120, cpu)
    migrate(ring, start + 72_540, kworker, cpu, other, MIGRATE_WAKEUP, cause_of(cpu, woken))
    ring.emit(start + 74_000, BOX_AIO_COMPLETE, 0, kworker, 0, FIO, 0, 512, 0)
    ring.emit(start + 75_170, WORKQUEUE_EXECUTE_END, 0, kworker, 0, work)
    switch(ring, start + 77_690, kworker, 0, TASK_IDLE)


def migrate(
    ring: MemoryRing, time_ns: int, current: int, source: int, target: int, why: int, cause: int = 0
) -> None:
    """Record that fio changes its CPU."""
    ring.emit(time_ns, SCHED_MIGRATE_TASK, 0, current, cause, FIO, 120, source, target, why)
