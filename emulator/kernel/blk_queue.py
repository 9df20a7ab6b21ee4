"""What one CPU has of a disk's queue: its ctx, its part of the elevator, its lease of tags.

Kernel: ``struct request_queue`` with ``struct blk_mq_ctx`` and ``struct blk_mq_hw_ctx``, v5.4.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from emulator.kernel import mq_deadline
from emulator.kernel.blk_stat import PollStats
from emulator.kernel.part_stat import PartStat
from emulator.kernel.request import Request
from emulator.queue_map import queue_map
from emulator.tags import LEASED, SbitmapQueue, initial_lease
from emulator.types import NEVER, SCHEDULE_REQUESTS, BoxSpec, Costs, DiskSpec, cpumask_first

# Why a plug is flushed.
PLUG_ENDS = 0
PLUG_FULL = 1
FROM_SCHEDULE = 2  # its task is about to sleep


class BlockQueue:
    """What one CPU has of a disk's queue: its ctx, its part of the elevator, its lease of tags."""

    __slots__ = (
        "allocated",
        "announced",
        "asks",
        "averages",
        "bios",
        "blocking",
        "busy",
        "busy_until",
        "carries",
        "copy_ps_per_byte",
        "ctx_list",
        "delayed",
        "depth",
        "direct",
        "dispatch_busy",
        "dispatch_from",
        "dispatch_ns",
        "doorbells",
        "driver",
        "elevator",
        "ends_inline",
        "flush_ns",
        "fua",
        "hctx",
        "hctx_mask",
        "inactive",
        "index",
        "irq_names",
        "issuing",
        "lease",
        "lease_step",
        "name",
        "next_cpu",
        "next_cpu_batch",
        "nr_ctx",
        "nr_hw_queues",
        "nr_requests",
        "params",
        "plug_max",
        "poll_nsec",
        "poll_queues",
        "poll_stats",
        "queue_of",
        "restart",
        "ring_at",
        "rings",
        "rq_affinity",
        "run_queued",
        "sbq",
        "schedule_asked",
        "service_ns",
        "stat",
        "tag_again",
        "tag_asked",
        "tag_mode",
        "vectored",
        "woken_early",
        "write_cache",
    )

    def __init__(self, spec: BoxSpec, index: int, cpu: int) -> None:
        disk = spec.disks[index]
        self.index = index
        self.name = disk.name
        self.driver = disk.driver
        self.params = disk.params
        self.flush_ns = disk.params.get("flush_ns", 0)
        self.write_cache = self.flush_ns > 0  # a volatile one
        self.fua = bool(disk.params.get("fua", 0))
        self.nr_hw_queues = disk.params.get("submit_queues", 1)
        machine = spec.machine
        self.vectored = bool(disk.vectors)
        #: each request goes to the device whole and comes back with its interrupt
        self.carries = self.vectored or disk.carries
        self.irq_names = irq_names(disk)
        self.bios = disk.params.get("queue_mode") == 0  # null_blk without the block layer
        self.blocking = bool(disk.params.get("memory_backed"))  # BLK_MQ_F_BLOCKING
        self.busy_until = 0  # the device answers BLK_STS_RESOURCE until then (a fault)
        self.queue_of = queue_map(spec, index)  # per CPU, its hctx
        self.hctx = self.queue_of[cpu]
        sizes = Counter(self.queue_of)
        #: the CPUs that share its hctx with it, if there are several hctxs; and which of them runs it
        self.hctx_mask = sum(
            1 << one for one, hctx in enumerate(self.queue_of) if hctx == self.hctx
        )
        if self.nr_hw_queues == 1 or sizes[self.hctx] == 1:
            self.hctx_mask = 0
        self.next_cpu = cpumask_first(self.hctx_mask) if self.hctx_mask else cpu
        self.next_cpu_batch = 8
        self.nr_ctx = [sizes[hctx] for hctx in self.queue_of]  # per CPU, how many its hctx serves
        self.rq_affinity = disk.rq_affinity
        self.nr_requests = disk.nr_requests
        rules = spec.kernel.rules
        deadline = disk.scheduler == "mq-deadline"
        self.elevator = mq_deadline.DeadlineQueue.of_rules(rules) if deadline else None
        costs = spec.costs
        self.dispatch_ns = (
            costs.null_dispatch_ns if disk.driver == "null_blk" else costs.dispatch_ns
        )
        #: what queue_rq() takes to copy a request's data into the device's memory
        self.copy_ps_per_byte = 0
        if self.blocking:
            self.copy_ps_per_byte = costs.memory_backed_ps_per_byte
        elif disk.driver == "scsi_debug":
            self.copy_ps_per_byte = costs.store_ps_per_byte
        #: null_blk's requests end inside queue_rq()
        self.ends_inline = disk.driver == "null_blk" and (
            disk.params.get("irqmode") == 0 or (self.bios and disk.params.get("irqmode", 1) == 1)
        )
        self.depth = disk.params.get("max_queue", disk.params.get("hw_queue_depth", 64))
        self.service_ns = service_time(disk.driver, disk.params)
        self.asks = self.service_ns >= question_ns(spec.costs)
        self.announced = initial_schedule(disk, machine.take_turns)  # requests left of it
        self.schedule_asked = False
        self.allocated = 0  # requests that were allocated here and are not freed
        self.inactive = False  # BLK_MQ_S_INACTIVE: the last CPU of the hctx goes away (5.8)
        # A driver with commit_rqs() takes a whole plug whatever its hardware queues.
        whole = self.nr_hw_queues == 1 or disk.driver in ("nvme", "virtio_blk")
        self.plug_max = (32 if spec.kernel.rules.plug_32 else 16) if whole else 1
        sharing = self.nr_ctx[cpu]
        self.lease = initial_lease(self.depth, sharing)
        self.lease_step = max(1, self.depth // sharing - self.lease)  # to this CPU's share
        self.tag_mode = LEASED
        self.tag_asked = False  # the device was asked ahead for more
        #: who stands still until it answers: pid, frame, its argument, whether it has
        self.tag_again: list[Any] = []
        self.restart = False  # SCHED_RESTART: a request waits for a driver tag
        self.woken_early: list[int] = []  # tasks woken before they slept
        self.issuing: Request | None = None  # it has left the queue, the driver is at it
        self.busy: list[Request] = []  # hctx.dispatch: requests that found no driver tag
        #: Without an elevator (blk_mq_sched): those inserted, those of a plug that is being issued, how
        #: busy the driver was, the ctx whose turn it is.
        self.ctx_list: list[Request] = []
        self.direct: list[Request] | None = None
        self.averages = self.elevator is None or rules.dispatch_busy_sched
        self.dispatch_busy = 0
        self.dispatch_from = 0
        self.delayed = False  # hctx.run_work is to be queued by a timer
        self.run_queued = False  # hctx.run_work is pending
        self.poll_queues = disk.params.get("poll_queues", 0)
        self.poll_nsec = disk.params.get("poll_nsec", -1)  # -1: classic; 0: adaptive
        self.poll_stats = PollStats()
        self.stat = PartStat(1_000_000_000 // machine.hz)
        self.doorbells: list[list[int]] = []
        self.rings = 0  # doorbells in all
        self.ring_at = 0  # end of the period in which one was last noted
        depth = self.nr_requests if self.elevator is not None else self.depth
        #: who waits here for a tag, by pid
        self.sbq = SbitmapQueue(depth, spec.kernel.rules.sbq_global_count)

    def has_work(self) -> bool:
        """Whether anything waits to be dispatched."""
        if self.elevator is None:
            return bool(self.busy or self.ctx_list)
        return bool(self.busy) or self.elevator.has_work()

    def waiting(self) -> list[Request]:
        """Return the requests that have left the plug and are in no elevator, the next one first."""
        first = [] if self.issuing is None else [self.issuing]
        return [*first, *(self.direct or ()), *self.busy, *self.ctx_list]


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
        return params.get("ndelay", 0) or params.get("delay", 0) * params.get("jiffy_ns", 0)
    if driver != "null_blk":
        return 0
    irqmode = params.get("irqmode", 1)
    return params.get("completion_nsec", 10_000) if irqmode == 2 else 0


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
