"""IOs of a small box in any order of submitting, CPUs that come and go, and faults of the disk.

Whatever happens: every IO completes exactly once, with the status that the device gave it the last time
it was sent; tags and AIO credits are whole again at the end; every work item that was queued has run.
The engine audits the books after every step.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from emulator.faults import EIO, ENODATA, ETIMEDOUT
from emulator.rules import rules_of
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    READ,
    WRITE,
    DiskSpec,
    Op,
)
from tests.kernel.box import MS, US, Box, Job, Steps, costs

NR_CPUS = 3
DEVICE = NR_CPUS + 1
BLOCK = 4096
SECTORS = BLOCK // 512
DEPTH = 24
S = 1_000_000_000

#: Seconds until everything has ended; every loss takes two at most, and there are two per step.
MANY = 120

CHARGES = costs(
    coherence_ns=100,
    request_ns=500,
    ttwu_ns=600,
    select_task_rq_ns=400,
    ttwu_activate_ns=500,
    context_switch_ns=1_500,
    ipi_ns=700,
    ipi_handler_ns=300,
    hardirq_ns=700,
    hrtimer_ns=1_000,
    tick_ns=1_000,
    softirq_ns=200,
    idle_exit_ns=1_000,
    idle_entry_ns=1_000,
    stopper_ns=1_500,
    stopper_tail_ns=1_500,
    syscall_ns=200,
    io_submit_ns=2_000,
    io_submit_more_ns=1_000,
    dispatch_ns=1_000,
    null_dispatch_ns=800,
    blk_end_request_ns=500,
    dio_complete_ns=400,
    worker_start_ns=300,
    worker_sleep_ns=300,
    memory_backed_ps_per_byte=100,
)

#: What every driver of the flash kind has.
FLASH = {
    "gb": 4,
    "hw_queue_depth": DEPTH,
    "read_ns": 80_000,
    "write_ns": 30_000,
    "units": 4,
    "sigma_percent": 30,
    "tail_ppm": 1_000,
    "timeout_ms": 50,
    "reset_ns": 20 * MS,
    "submit_queues": 1,
}
NULL = {
    "irqmode": 2,
    "completion_nsec": 60_000,
    "hw_queue_depth": DEPTH,
    "timeout_ms": 50,
    "submit_queues": 1,
    "memory_backed": 1,
}
SCSI = {"ndelay": 41_000, "submit_queues": 1, "max_queue": DEPTH, "timeout_ms": 50}


def disk_of(kind: str, rq_affinity: int) -> DiskSpec:
    """Return a small disk of each kind."""
    disk = DiskSpec("sda", kind, FLASH, "none", rq_affinity, DEPTH, preset="generic")
    deadline = replace(disk, scheduler="mq-deadline", nr_requests=2 * DEPTH)
    if kind == "polled":
        polling = {"poll_queues": 1, "poll_nsec": 0, "submit_queues": 2}
        vectors = (0b011, 0b100)
        params = FLASH | polling
        return replace(disk, driver="nvme", params=params, vectors=vectors, managed=True)
    if kind == "nvme":
        coalesce = {"coalesce_threshold": 2, "coalesce_time_ns": 100_000, "submit_queues": 2}
        return replace(disk, params=FLASH | coalesce, vectors=(0b011, 0b100), managed=True)
    if kind == "virtio_blk":
        return replace(disk, vectors=(0b010,), preset="host")
    if kind == "sata_ssd":
        return replace(deadline, vectors=(0b100,))
    if kind == "null_blk":
        return replace(deadline, params=NULL)
    return replace(deadline, driver="scsi_debug", params=SCSI, carries=kind == "carried")


KINDS = ("nvme", "virtio_blk", "sata_ssd", "null_blk", "scsi_debug", "carried", "polled")


class IoMachine(RuleBasedStateMachine):
    """Two submitters on three CPUs, told what to do step by step."""

    @initialize(
        kind=st.sampled_from(KINDS),
        rq_affinity=st.integers(0, 2),
        rules=st.sampled_from(("5.4", "5.15", "6.12")),
        threadirqs=st.booleans(),
    )
    def build(self, kind: str, rq_affinity: int, rules: str, threadirqs: bool) -> None:
        """Build the box: each submitter with a queue of operations to do."""
        self.todo: list[deque[Op]] = [deque(), deque()]
        self.now = 0
        self.polled = kind == "polled"
        self.ending = False
        self.submitted = 0
        self.faults: list[tuple[int, int, int, int]] = []  # (time, first, last sector, status)
        self.exact = True  # no fault so far whose victims only the device knows
        jobs = [
            Job(self.steps_of(number), name=f"fio{number}", cpu=number, disk="/raw")
            for number in range(2)
        ]
        self.box = Box(
            *jobs,
            nr_cpus=NR_CPUS,
            disk=disk_of(kind, rq_affinity),
            charges=CHARGES,
            rules=rules_of(rules),
            version=rules,
            threadirqs=threadirqs,
        )

    def steps_of(self, number: int) -> Callable[[], Steps]:
        """Return a submitter's program: do what is asked, else look again soon."""

        def steps() -> Steps:
            while True:
                while self.todo[number]:
                    yield self.todo[number].popleft()
                if self.ending:
                    yield self.reaping(128)
                asked_ns = self.box.script(number).calls[-1][0]
                yield (OP_SLEEP, asked_ns + (100 * MS if self.ending else 100 * US))

        return steps

    def reaping(self, nr: int) -> Op:
        """Return the operation that takes up to so many completions."""
        return (OP_URING_REAP if self.polled else OP_IO_GETEVENTS, 0, nr)

    # -- What happens -------------------------------------------------------------------------------

    @rule(
        job=st.integers(0, 1),
        nr=st.integers(1, 6),
        rw=st.sampled_from((READ, WRITE, WRITE)),
    )
    def submit(self, job: int, nr: int, rw: int) -> None:
        """Submit some IOs, each to a block of its own."""
        first = self.submitted
        self.submitted += nr
        ios = [(one, rw, job, one * BLOCK, BLOCK) for one in range(first, first + nr)]
        self.todo[job].append((OP_URING_ENTER, ios, True) if self.polled else (OP_IO_SUBMIT, ios))

    @rule(job=st.integers(0, 1), least=st.integers(0, 1))
    def reap(self, job: int, least: int) -> None:
        """Reap, and perhaps wait."""
        if least == 0 or self.submitted:
            self.todo[job].append(self.reaping(64))
        self.todo[job].append((OP_RUN, 20 * US))

    @rule(ns=st.one_of(st.integers(1, 100 * US), st.integers(1, 5 * MS)))
    def time_passes(self, ns: int) -> None:
        """Run the box for a while."""
        self.now += ns
        self.box.run(self.now)

    @rule(cpu=st.integers(1, NR_CPUS - 1), verb=st.sampled_from(("offline", "online")))
    def hotplug(self, cpu: int, verb: str) -> None:
        """A CPU goes down or comes up, or not, if it is so already."""
        self.now += 1
        self.box.command(self.now, cpu, "cpu", verb, str(cpu))

    @rule(
        first=st.integers(0, 40),
        nr=st.integers(1, 10),
        medium=st.booleans(),
    )
    def error(self, first: int, nr: int, medium: bool) -> None:
        """Some blocks are bad from now on."""
        low, high = first * SECTORS, (first + nr) * SECTORS - 1
        words = ["error", f"sector={low}-{high}", "count=1000000", *(["medium"] * medium)]
        self.fault(*words)
        self.faults.append((self.now, low, high, ENODATA if medium else EIO))

    @rule(verb=st.sampled_from(("drop", "lose-irq")), every=st.integers(1, 3))
    def lose(self, verb: str, every: int) -> None:
        """A request, or an interrupt, is lost."""
        self.fault(verb, f"every={every}", "count=2")
        self.exact = False

    @rule(how=st.sampled_from((("busy", "2ms"), ("slow", "5", "3ms"), ("reset",))))
    def disturb(self, how: tuple[str, ...]) -> None:
        """The disk has its moods."""
        self.fault(*how)

    def fault(self, *words: str) -> None:
        """Tell the disk and every CPU."""
        self.now += 1
        for node in (*range(NR_CPUS), DEVICE):
            self.box.command(self.now, node, "disk", "sda", *words)

    # -- What must be -------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything end, look at the whole."""
        if not hasattr(self, "box"):
            return
        for cpu in range(1, NR_CPUS):
            self.hotplug(cpu, "online")
        self.ending = True
        # Timers of requests look every second or so, and what is sent again may be lost again.
        for _ in range(MANY):
            self.now += S
            self.box.run(self.now)
            if len(self.box.events("box_aio_complete")) == self.submitted:
                break
            if self.box.spec.disks[0].driver == "virtio_blk":
                self.fault("reset")  # it has no timeout: what is lost stays so
        self.now += 2 * S
        self.box.run(self.now)
        self.all_completed_once()
        self.all_is_free()
        self.every_work_ran()

    def all_completed_once(self) -> None:
        """Every IO completed once, as the device said when it was sent for the last time."""
        done = self.box.events("box_aio_complete")
        assert Counter(event[2]["data"] for event in done) == Counter(range(self.submitted))
        sent: dict[int, int] = {}
        for at_ns, _, args in self.box.events("block_rq_issue"):
            sent[args["sector"] // SECTORS] = at_ns
        for _, _, args in done:
            block = args["data"]
            struck = [
                status
                for at_ns, low, high, status in self.faults
                if sent[block] >= at_ns and low < (block + 1) * SECTORS and high >= block * SECTORS
            ]
            allowed = {struck[-1] if struck else BLOCK}
            if not self.exact:
                # null_blk gives up at once, SCSI after five retries.
                allowed |= {ETIMEDOUT, EIO}
            assert args["res"] in allowed, (args, struck)

    def all_is_free(self) -> None:
        """No request, tag or credit is held by anybody."""
        books = {node.node_id: node.books() for node in self.box.engine._nodes}
        requests = [book["requests"] for book in books.values() if "requests" in book]
        made, freed, here = (sum(column) for column in zip(*requests, strict=True))
        assert made == freed
        assert here == 0
        disk = books[DEVICE]
        assert disk["held"] == 0
        leased = sum(cpu.queues[0].lease for cpu in self.box.cpus)
        assert leased + disk["free_tags"] == disk["tags"]
        for job in range(2):
            context = self.box.task(job).run.ctx
            if context is not None:
                # Those of reaped events are given back when somebody needs them.
                mine = context.reqs_available + sum(context.cpu_credits.values())
                assert mine + context.completed_events == context.nr_events - 1

    def every_work_ran(self) -> None:
        """What was queued was started and ended, as often."""
        names = ("workqueue_queue_work", "workqueue_execute_start", "workqueue_execute_end")
        queued, started, ended = (
            Counter(event[2]["work"] for event in self.box.events(name)) for name in names
        )
        assert queued == started == ended
        assert not any(pool.worklist for cpu in self.box.cpus for pool in cpu.pools)


TestIoMachine = IoMachine.TestCase
TestIoMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
