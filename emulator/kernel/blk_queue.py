"""What one CPU has of a disk's queue: its ctx, its part of the elevator, its lease of tags.

Kernel: ``struct request_queue`` with ``struct blk_mq_ctx`` and ``struct blk_mq_hw_ctx``, and
``blk_mq_map_queues()`` of ``block/blk-mq-cpumap.c``, v5.4 and, with ``rules.map_queues_evenly``, v6.3.
"""

from __future__ import annotations

from emulator.kernel import irq_affinity, mq_deadline
from emulator.kernel.part_stat import PartStat
from emulator.kernel.request import Request
from emulator.types import NEVER, SCHEDULE_REQUESTS, BoxSpec, Costs, DiskSpec, MachineSpec

SBQ_WAIT_QUEUES = 8


def blk_mq_map_queues(nr_cpus: int, core_masks: tuple[int, ...], nr_queues: int) -> list[int]:
    """Return the hardware queue of each CPU by the generic map of v5.4 (A.2); all CPUs present."""
    queue_of = [-1] * nr_cpus
    k = 0
    for cpu in range(nr_cpus):
        if k >= nr_queues:
            break
        queue_of[cpu] = k % nr_queues
        k += 1
    for cpu in range(nr_cpus):
        if queue_of[cpu] >= 0:
            continue
        first = (core_masks[cpu] & -core_masks[cpu]).bit_length() - 1
        if k < nr_queues or first == cpu:
            queue_of[cpu] = k % nr_queues
            k += 1
        else:
            queue_of[cpu] = queue_of[first]
    return queue_of


def map_queues_evenly(machine: MachineSpec, nr_queues: int) -> list[int]:
    """Return the hardware queue of each CPU by the generic map of v6.3 (A.2): vectors' spread."""
    queue_of = [0] * machine.nr_cpus
    groups = irq_affinity.group_cpus_evenly(nr_queues, machine.node, machine.core)
    for queue, mask in enumerate(groups):
        for cpu in range(machine.nr_cpus):
            if mask >> cpu & 1:
                queue_of[cpu] = queue
    return queue_of


def queue_map(spec: BoxSpec, nr_queues: int) -> list[int]:
    """Return the hardware queue of each CPU as the box's kernel maps them."""
    machine = spec.machine
    if spec.kernel.rules.map_queues_evenly:
        return map_queues_evenly(machine, nr_queues)
    return blk_mq_map_queues(machine.nr_cpus, machine.core, nr_queues)


class BlockQueue:
    """What one CPU has of a disk's queue: its ctx, its part of the elevator, its lease of tags."""

    __slots__ = (
        "announced",
        "asks",
        "busy",
        "busy_until",
        "carries",
        "depth",
        "doorbells",
        "driver",
        "elevator",
        "fua",
        "hctx",
        "index",
        "irq_names",
        "lease",
        "lease_step",
        "name",
        "nr_ctx",
        "nr_hw_queues",
        "nr_requests",
        "params",
        "recalled",
        "ring_at",
        "rings",
        "rq_affinity",
        "run_queued",
        "sched_tags",
        "schedule_asked",
        "service_ns",
        "stat",
        "tag_asked",
        "vectored",
        "wait_cnt",
        "wait_index",
        "waiters",
        "wake_index",
        "write_cache",
    )

    def __init__(self, spec: BoxSpec, index: int, cpu: int) -> None:
        disk = spec.disks[index]
        self.index = index
        self.name = disk.name
        self.driver = disk.driver
        self.params = disk.params
        self.write_cache = bool(disk.params.get("write_cache", 0))  # a volatile one
        self.fua = bool(disk.params.get("fua", 0))
        self.nr_hw_queues = disk.params.get("submit_queues", 1)
        machine = spec.machine
        self.vectored = bool(disk.vectors)
        #: each request goes to the device whole and comes back with its interrupt
        self.carries = self.vectored or disk.carries
        self.irq_names = irq_names(disk)
        self.busy_until = 0  # the device answers BLK_STS_RESOURCE until then (a fault)
        self.recalled = False  # another CPU lacks tags: those freed here go back to the device
        queue_of = vector_map(disk, machine) if disk.managed else queue_map(spec, self.nr_hw_queues)
        self.hctx = queue_of[cpu]
        self.nr_ctx = [queue_of.count(hctx) for hctx in queue_of]  # per CPU, of its hctx
        self.rq_affinity = disk.rq_affinity
        self.nr_requests = disk.nr_requests
        self.elevator = mq_deadline.DeadlineQueue() if disk.scheduler == "mq-deadline" else None
        self.depth = disk.params.get("max_queue", disk.params.get("hw_queue_depth", 64))
        self.service_ns = service_time(disk.driver, disk.params)
        self.asks = self.service_ns >= question_ns(spec.costs)
        self.announced = initial_schedule(disk, machine.take_turns)  # requests left of it
        self.schedule_asked = False
        self.sched_tags = 0  # requests allocated and not freed here
        nr_tags = self.depth * (1 if disk.driver == "scsi_debug" else self.nr_hw_queues)
        self.lease = initial_lease(nr_tags, machine.nr_cpus)
        # As many as leave each CPU a share: what one CPU has leased it keeps.
        self.lease_step = max(1, nr_tags // machine.nr_cpus - self.lease)
        self.tag_asked = False
        self.busy: list[Request] = []  # hctx.dispatch: requests that found no driver tag
        self.run_queued = False  # hctx.run_work is pending
        self.stat = PartStat(1_000_000_000 // machine.hz)
        self.doorbells: list[list[int]] = []
        self.rings = 0  # doorbells in all
        self.ring_at = 0  # end of the period in which one was last noted
        self.waiters: list[list[int]] = [[] for _ in range(SBQ_WAIT_QUEUES)]
        self.wait_index = 0
        self.wake_index = 0
        depth = self.nr_requests if self.elevator is not None else self.depth
        self.wait_cnt = [wake_batch(depth)] * SBQ_WAIT_QUEUES

    def take_waiters(self) -> list[list[int]]:
        """Empty the wait queues, for the CPU that takes over."""
        waiters, self.waiters = self.waiters, [[] for _ in range(SBQ_WAIT_QUEUES)]
        return waiters

    def has_work(self) -> bool:
        """Whether anything waits to be dispatched."""
        return bool(self.busy) or (self.elevator is not None and self.elevator.has_work())


def vector_map(disk: DiskSpec, machine: MachineSpec) -> list[int]:
    """Return the hardware queue of each CPU where every queue has a vector of its own."""
    queue_of = [0] * machine.nr_cpus
    for vector, mask in enumerate(disk.vectors):
        for cpu in range(machine.nr_cpus):
            if mask >> cpu & 1:
                queue_of[cpu] = vector
    return queue_of


def irq_names(disk: DiskSpec) -> list[str]:
    """Return what ``/proc/interrupts`` calls the vectors of a disk."""
    if disk.driver == "nvme":
        controller = disk.name.partition("n1")[0]
        return [f"{controller}q{vector + 1}" for vector in range(len(disk.vectors))]
    if disk.driver == "virtio_blk":
        return [f"virtio0-req.{vector}" for vector in range(len(disk.vectors))]
    return ["ahci" for _ in disk.vectors]


def service_time(driver: str, params: dict[str, int]) -> int:
    """Return the driver's fixed service time in ns; 0 completes inside ``queue_rq``."""
    if driver == "scsi_debug":
        return params.get("ndelay", 0)
    if driver != "null_blk":
        return 0
    irqmode = params.get("irqmode", 1)
    return params.get("completion_nsec", 10_000) if irqmode == 2 else 0


def initial_lease(depth: int, nr_cpus: int) -> int:
    """Return the tags a CPU holds at boot: a quarter of all are spread, the device keeps the rest."""
    return max(1, depth // (4 * nr_cpus))


def initial_schedule(disk: DiskSpec, take_turns: bool) -> int:
    """Return the requests announced at boot.

    CPUs that take turns see each other's timers, so theirs must be known ahead: never asked.
    """
    if disk.vectors or disk.carries:
        return 0
    if take_turns:
        return NEVER
    return SCHEDULE_REQUESTS if disk.schedules else 0


def question_ns(costs: Costs) -> int:
    """Return the least time between a doorbell that asks and the completion that answers it."""
    return costs.coherence_ns + max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))


def wake_batch(depth: int) -> int:
    """Return how many frees wake one batch of waiters (A.3)."""
    return min(max(depth // SBQ_WAIT_QUEUES, 1), 8)
