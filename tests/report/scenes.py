"""Scenes on three CPUs, written by hand: a push, a follow-up of completions, a pull, a wait."""

from emulator.report.history import Entry, History
from emulator.report.story import Teller
from emulator.trace.layout import cause_of
from emulator.trace.ring import MemoryRing
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_INSERT,
    BLOCK_RQ_ISSUE,
    BOX_CHECK_PREEMPT,
    BOX_LOAD_BALANCE,
    BOX_NOHZ_KICK,
    BOX_SELECT_TASK_RQ,
    F_SOFTIRQ,
    HRTIMER_EXPIRE_ENTRY,
    LB_ACTIVE,
    LB_FAILED,
    LB_MOVED,
    MIGRATE_ACTIVE,
    MIGRATE_NOHZ,
    MIGRATE_WAKEUP,
    NOHZ_WHY_NR_RUNNING,
    PLACE_RECENT,
    PREEMPT_NO_GRANULARITY,
    PREEMPT_TICK_VRUNTIME,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKING,
    TASK_INTERRUPTIBLE,
    WORKQUEUE_EXECUTE_START,
    WORKQUEUE_QUEUE_WORK,
)
from emulator.types import CPU_IDLE, CPU_NEWLY_IDLE
from tests.report.rings import DIO_WORK, readers_of

FIO = 100
NR_CPUS = 3
MS = 1_000_000
BALANCER = NR_CPUS


def kworker(cpu: int) -> int:
    """Return the pid of a CPU's bound worker."""
    return 10 + cpu


def stopper(cpu: int) -> int:
    """Return the pid of a CPU's stopper."""
    return 20 + cpu


class Scene:
    """Rings of three CPUs and of the balancer; every method records something that happened."""

    def __init__(self) -> None:
        self.rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(NR_CPUS)]
        self.rings.append(MemoryRing("coordinator", BALANCER))
        for cpu, ring in enumerate(self.rings[:NR_CPUS]):
            ring.comm(FIO, "fio")
            ring.comm(kworker(cpu), f"kworker/{cpu}:1")
            ring.comm(stopper(cpu), f"migration/{cpu}")

    @property
    def teller(self) -> Teller:
        """Return a teller of what was recorded so far."""
        return Teller(History(readers_of(self.rings)))

    def entry(self, cause: int) -> Entry:
        """Return the record that a cause names."""
        entry = self.teller.history.at(cause)
        assert entry is not None
        return entry

    def emit(
        self, cpu: int, time_ns: int, event: int, pid: int, cause: int, *args: int, flags: int = 0
    ) -> int:
        """Record an event, and return the cause that names it."""
        return cause_of(cpu, self.rings[cpu].emit(time_ns, event, flags, pid, cause, *args))

    def switch(self, cpu: int, time_ns: int, prev: int, following: int, state: int = 0) -> int:
        """Record a switch."""
        args = (prev, 120, state, following, 120)
        return self.emit(cpu, time_ns, SCHED_SWITCH, prev, 0, *args)

    def completion(self, cpu: int, time_ns: int, submitted_ns: int) -> int:
        """Record an IO from its insertion to the queueing of its work; return the work's cause."""
        ring = self.rings[cpu]
        rwbs, timer = ring.intern("WS"), ring.intern("sdebug_q_cmd_hrt_complete")
        work, queue = ring.intern(DIO_WORK), ring.intern("dio/sda")
        io = (8 << 20, rwbs, 4096, 8)
        cause = self.emit(cpu, submitted_ns, BLOCK_RQ_INSERT, FIO, 0, *io, 4096)
        cause = self.emit(cpu, submitted_ns, BLOCK_RQ_ISSUE, FIO, cause, *io, 4096)
        cause = self.emit(cpu, time_ns, HRTIMER_EXPIRE_ENTRY, FIO, cause, 1, timer, time_ns)
        cause = self.emit(cpu, time_ns, BLOCK_RQ_COMPLETE, FIO, cause, *io, 0)
        return self.emit(cpu, time_ns, WORKQUEUE_QUEUE_WORK, FIO, cause, 7, work, queue, 8192, cpu)

    def starved(self, cpu: int, time_ns: int) -> None:
        """Record a completion whose worker is woken behind fio and may not preempt it."""
        cause = self.completion(cpu, time_ns, time_ns - 41_000)
        pid = kworker(cpu)
        args = (pid, 120, cpu)
        woken = self.emit(cpu, time_ns, SCHED_WAKING, FIO, cause, *args, flags=F_SOFTIRQ)
        test = (pid, FIO, 9 * MS, 15 * MS, PREEMPT_NO_GRANULARITY)
        self.emit(cpu, time_ns, BOX_CHECK_PREEMPT, FIO, woken, *test)
        self.emit(cpu, time_ns, SCHED_WAKEUP, FIO, woken, *args)

    def kick(self, cpu: int, time_ns: int) -> int:
        """Record that a tick kicks CPU 0."""
        return self.emit(cpu, time_ns, BOX_NOHZ_KICK, FIO, 0, 0, 2, NOHZ_WHY_NR_RUNNING, 3)

    def balance(
        self,
        time_ns: int,
        dst: int,
        src: int,
        result: int,
        failed: int,
        cause: int = 0,
        idle: int = CPU_IDLE,
    ) -> int:
        """Record a pass."""
        args = (dst, src, idle, result, failed)
        return self.emit(BALANCER, time_ns, BOX_LOAD_BALANCE, 0, cause, *args)

    def migrate(
        self, cpu: int, time_ns: int, current: int, target: int, why: int, cause: int
    ) -> int:
        """Record that fio leaves a CPU."""
        args = (FIO, 120, cpu, target, why)
        return self.emit(cpu, time_ns, SCHED_MIGRATE_TASK, current, cause, *args)


def push(scene: Scene, start_ns: int, source: int, target: int) -> int:
    """Record how fio comes to run, starves its worker, and is pushed; return when it has gone."""
    scene.switch(source, start_ns, 0, FIO)
    scene.starved(source, start_ns + MS)
    for failed in (1, 2, 3):
        now = start_ns + failed * 2 * MS
        scene.balance(now + 7_000, target, source, LB_FAILED, failed, scene.kick(source, now))
        # A pass on going idle fails too, but its failure does not count.
        scene.balance(now + 9_000, target, source, LB_FAILED, failed, 0, CPU_NEWLY_IDLE)
    now = start_ns + 8 * MS
    cause = scene.kick(source, now)
    cause = scene.balance(now + 7_000, target, source, LB_ACTIVE, 2, cause)
    args = (stopper(source), 0, source)
    scene.emit(source, now + 8_000, SCHED_WAKEUP, FIO, cause, *args)
    scene.switch(source, now + 9_000, FIO, stopper(source))
    scene.migrate(source, now + 10_000, stopper(source), target, MIGRATE_ACTIVE, cause)
    scene.switch(source, now + 12_000, stopper(source), kworker(source), TASK_INTERRUPTIBLE)
    scene.switch(source, now + 40_000, kworker(source), 0, TASK_INTERRUPTIBLE)
    return now + 50_000


def follow(scene: Scene, start_ns: int, source: int, target: int) -> int:
    """Record a 512-byte IO whose worker wakes fio, which goes elsewhere; return when it has gone."""
    scene.switch(source, start_ns, 0, FIO)
    scene.switch(source, start_ns + 10_000, FIO, 0, TASK_INTERRUPTIBLE)
    cause = scene.completion(source, start_ns + 45_000, start_ns + 4_000)
    pid = kworker(source)
    woken = (pid, 120, source)
    scene.emit(source, start_ns + 46_000, SCHED_WAKEUP, 0, cause, *woken, flags=F_SOFTIRQ)
    scene.switch(source, start_ns + 50_000, 0, pid)
    work = scene.rings[source].intern(DIO_WORK)
    cause = scene.emit(source, start_ns + 51_000, WORKQUEUE_EXECUTE_START, pid, cause, 7, work)
    cause = scene.emit(source, start_ns + 52_000, SCHED_WAKING, pid, cause, FIO, 120, source)
    args = (FIO, source, source, target, PLACE_RECENT)
    cause = scene.emit(source, start_ns + 53_000, BOX_SELECT_TASK_RQ, pid, cause, *args)
    cause = scene.migrate(source, start_ns + 53_000, pid, target, MIGRATE_WAKEUP, cause)
    scene.emit(target, start_ns + 55_000, SCHED_WAKEUP, 0, cause, FIO, 120, target)
    scene.switch(source, start_ns + 58_000, pid, 0, TASK_INTERRUPTIBLE)
    return start_ns + 60_000


def pull(scene: Scene, start_ns: int, source: int, target: int) -> int:
    """Record how the tick serves fio's worker, and fio is pulled meanwhile."""
    scene.switch(source, start_ns, 0, FIO)
    scene.starved(source, start_ns + MS)
    now = start_ns + 12 * MS
    pid = kworker(source)
    test = (pid, FIO, 22 * MS, 12 * MS, PREEMPT_TICK_VRUNTIME)
    scene.emit(source, now, BOX_CHECK_PREEMPT, FIO, 0, *test)
    cause = scene.kick(source, now)
    scene.switch(source, now + 2_000, FIO, pid)
    scene.migrate(source, now + 7_000, pid, target, MIGRATE_NOHZ, cause)
    scene.balance(now + 7_000, target, source, LB_MOVED, 0, cause)
    scene.switch(source, now + 40_000, pid, 0, TASK_INTERRUPTIBLE)
    return now + 50_000
