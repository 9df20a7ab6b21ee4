"""What a device does with requests that it is given one by one: service, interrupts, timeouts, faults.

Theory of operation
-------------------
A request comes with its doorbell and is the device's until it goes back in an interrupt.  A *model*
(:mod:`units`, :mod:`hdd`) says when it is done; then it has an entry in the completion queue of its
vector, and the vector's interrupt carries all entries of that queue to the vector's CPU, at once or,
with coalescing, when there are ``threshold + 1`` or ``time`` after the first (G.4).  A managed vector
has the CPUs of its mask and none other; one of whose CPUs all are offline is shut down.  Any other is
moved when its CPU goes, or with its next interrupt when its affinity is written.  A driver without vectors (scsi_debug, null_blk) interrupts where the request
was rung.

The queue's timer is kept here too, since the requests are (:mod:`timeout`).  When it expires a CPU is
told; what its kblockd then finds expired is handled by the driver's rules (G.5): SCSI aborts and
retries up to five times; NVMe looks into the completion queue first, then aborts, then resets the
controller, which gives all requests back to be sent again; null_blk ends the request; virtio_blk waits
on.

Departures from the kernel: the abort of SCSI runs here, HZ/100 after the timeout, and not in a work of
``scsi_tmf_*``; an abort always succeeds, so ``scsi_eh_*`` is never reached; requests rung during a
reset wait in the device, where the kernel keeps the queue quiet.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

from emulator.device.hdd import MECHANICS, Hdd
from emulator.device.latency import PROFILES, Draw, Profile
from emulator.device.timeout import RequestTimer
from emulator.device.units import Units
from emulator.faults import EIO, ENODATA, ETIMEDOUT, Fault
from emulator.messages import POSTED
from emulator.seeds import seed_stream
from emulator.types import NEVER, READ, BoxSpec, DiskSpec, cpumask_first, for_each_cpu

SCSI_RETRIES = 5

#: What a timeout leads to.
ABORT, POLL, END, AGAIN = range(4)
ON_TIMEOUT = {"nvme": POLL, "null_blk": END, "virtio_blk": AGAIN}  # all others: ABORT

# scsi_debug's opts, and the sectors that SDEBUG_OPT_MEDIUM_ERR is about.
OPT_MEDIUM_ERR = 2
OPT_TIMEOUT = 4
OPT_TRANSPORT_ERR = 16
MEDIUM_ERR_START = 0x1234
MEDIUM_ERR_NUM = 10


class Model(Protocol):
    """When requests are done, by serial number."""

    def start(
        self, rung_ns: int, serial: int, rw: int, sector: int, nr_sector: int, percent: int
    ) -> int:
        """Take a request; return when it is done, 0 if that is not known yet."""
        ...

    def next_ns(self) -> int:
        """Return when the next request is done, or NEVER."""
        ...

    def take(self) -> tuple[int, int]:
        """Take the request that is done next: (time, serial)."""
        ...

    def clear(self) -> None:
        """Forget every request."""
        ...

    def pack(self) -> list[Any]:
        """Return the changing state."""
        ...

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        ...


def make_model(spec: BoxSpec, index: int, service_ns: int) -> Model:
    """Build the model of a disk; ``service_ns`` is of the drivers that have one fixed time."""
    disk = spec.disks[index]
    params = disk.params
    if disk.driver == "hdd":
        mechanics = MECHANICS[disk.preset]
        return Hdd(mechanics, params["gb"] << 30, params["ncq"])
    state = seed_stream(spec.seed, spec.machine.nr_cpus + 1 + index, 0)
    if disk.driver not in PROFILES:
        return Units(Draw(Profile("", service_ns, service_ns, 1), state), 1 << 62)
    return Units(Draw(profile_of(disk), state), params["units"])


def profile_of(disk: DiskSpec) -> Profile:
    """Return a disk's profile: its preset, with what its parameters say otherwise."""
    preset = PROFILES[disk.driver][disk.preset]
    params = disk.params
    return Profile(
        preset.about,
        params["read_ns"],
        params["write_ns"],
        params["units"],
        preset.seq_read_ns if params["read_ns"] == preset.read_ns else 0,
        preset.seq_write_ns if params["write_ns"] == preset.write_ns else 0,
        params["sigma_percent"],
        params["tail_ppm"],
        preset.tail_read_ns,
        preset.tail_write_ns,
        preset.mb_per_s,
    )


@dataclass(slots=True)
class Entry:
    """One request at the device."""

    cookie: int
    data: list[Any]  #: the packed request
    io: list[int]  #: pid and iocb; 0 and the number of pages that are counted; else empty
    ctx_cpu: int
    source: int  #: the CPU that rang
    rung_ns: int
    rw: int
    sector: int
    nr_sector: int
    vector: int
    deadline: int  #: jiffy
    aborted: int = 0
    status: int = 0
    done: bool = False  #: it has an entry in its completion queue
    polled: int = 0  #: it came through a polled queue: it interrupts nobody

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [getattr(self, name) for name in self.__slots__]


class Sender(Protocol):
    """The node around a controller, as the controller sees it."""

    def interrupt(self, cpu: int, vector: int, entries: list[list[Any]], polled: int) -> None:
        """Carry completion entries to a CPU, in effect one answer's latency from now."""
        ...

    def event(self, cpu: int, requests: list[list[Any]], lines: list[str]) -> None:
        """Have a CPU's driver send requests again, and log lines."""
        ...

    def expired(self, cpu: int) -> None:
        """Tell a CPU that the queue's timer has expired there."""
        ...


class Controller:
    """The requests that a device has, and everything that may happen to them."""

    __slots__ = (
        "abort_at",
        "affinity",
        "answer_ns",
        "attempts",
        "coalesce_at",
        "completion_queues",
        "counters",
        "depth",
        "disk",
        "entries",
        "errors",
        "flush_ns",
        "flushes",
        "hctx_of",
        "hz",
        "model",
        "moving",
        "node",
        "online",
        "rung",
        "serial",
        "slow",
        "tick_ns",
        "timeout",
        "timer",
        "up_ns",
    )

    def __init__(
        self, spec: BoxSpec, index: int, node: Sender, service_ns: int, answer_ns: int
    ) -> None:
        disk = spec.disks[index]
        nr_cpus = spec.machine.nr_cpus
        self.disk = disk
        self.node = node
        self.answer_ns = answer_ns
        self.hz = spec.machine.hz
        self.tick_ns = 1_000_000_000 // self.hz
        self.model = make_model(spec, index, service_ns)
        self.hctx_of = hctx_map(disk, nr_cpus)
        self.online = (1 << nr_cpus) - 1
        self.affinity = list(disk.vectors)  #: by vector, the CPUs that it may interrupt
        self.moving = [0] * len(disk.vectors)  #: those that it may from its next interrupt on
        self.serial = 0
        self.entries: dict[int, Entry] = {}  #: by serial number
        self.attempts: dict[int, int] = {}  #: cookie -> times that it was sent again
        nr_queues = len(disk.vectors) or nr_cpus
        self.completion_queues: list[list[int]] = [[] for _ in range(nr_queues)]
        self.coalesce_at: list[int] = [NEVER] * nr_queues
        self.flush_ns = disk.params.get("flush_ns", 0)
        self.flushes: list[tuple[int, int]] = []  #: heap of (time, serial) of requests without data
        self.abort_at: list[tuple[int, int]] = []  #: heap of (time, serial)
        self.timer = RequestTimer(self.hz)
        self.timeout = max(1, disk.params.get("timeout_ms", 30_000) * self.hz // 1000)  #: jiffies
        self.up_ns = 0  #: a reset is over then
        #: what is still to strike: [verb, first, last, every, count, status, matches so far]
        self.errors: list[list[Any]] = []
        self.slow = [0, 100]  #: until when, percent
        self.rung = 0
        self.depth = disk.params.get("max_queue", disk.params.get("hw_queue_depth", 64))
        self.counters: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Add one to a counter of the books."""
        self.counters[name] = self.counters.get(name, 0) + 1

    # -- Time -------------------------------------------------------------------------------------

    def next_ns(self) -> int:
        """Return the time of the next thing to do here: one answer ahead of what a CPU feels of it."""
        soonest = min(self.served_ns(), *self.coalesce_at)
        if self.abort_at and self.abort_at[0][0] < soonest:
            soonest = self.abort_at[0][0]
        if self.timer.expires:
            soonest = min(soonest, self.timer.expires * self.tick_ns)
        return soonest - self.answer_ns if soonest < NEVER else NEVER

    def served_ns(self) -> int:
        """Return when the next request is served, or NEVER."""
        soonest = self.model.next_ns()
        return min(soonest, self.flushes[0][0]) if self.flushes else soonest

    def fire(self, now_ns: int) -> None:
        """Do all that is due by now."""
        felt_ns = now_ns + self.answer_ns
        while self.served_ns() <= felt_ns:
            flushed = self.flushes and self.flushes[0][0] < self.model.next_ns()
            self.finish(*(heappop(self.flushes) if flushed else self.model.take()))
        for vector, at_ns in enumerate(self.coalesce_at):
            if at_ns <= felt_ns:
                self.interrupt(vector)
        while self.abort_at and self.abort_at[0][0] <= felt_ns:
            self.abort(heappop(self.abort_at)[1])
        if self.timer.expires and self.timer.expires * self.tick_ns <= felt_ns:
            self.timer.expires = 0
            self.node.expired(self.live(self.timer.cpu))

    # -- Requests ---------------------------------------------------------------------------------

    def arrive(self, source: int, args: tuple[Any, ...]) -> int:
        """Take a request; return when it will be done, 0 if nobody knows."""
        data, rung_ns, cookie, ctx_cpu, rw, sector, nr_sector, pid, iocb, polled = args
        start = rung_ns // self.tick_ns
        vector = self.hctx_of[ctx_cpu] if self.disk.vectors else source
        io = [pid, iocb] if pid or iocb else []
        entry = Entry(
            cookie, data, io, ctx_cpu, source, rung_ns, rw, sector, nr_sector, vector,
            start + self.timeout, polled=polled,
        )  # fmt: skip
        self.serial += 1
        self.rung += 1
        self.entries[self.serial] = entry
        self.timer.add(start, entry.deadline, source)
        dropped = self.strike(entry)
        if dropped:
            self.count("dropped")
            return 0
        percent = self.slow[1] if rung_ns < self.slow[0] else 100
        begin_ns = max(rung_ns, self.up_ns)
        if not nr_sector:
            flush_ns: int = self.flush_ns * percent // 100
            done_ns: int = begin_ns + max(flush_ns, self.answer_ns)
            heappush(self.flushes, (done_ns, self.serial))
            return done_ns
        return self.model.start(begin_ns, self.serial, rw, sector, nr_sector, percent)

    def finish(self, done_ns: int, serial: int) -> None:
        """The device is done with a request: an entry in the completion queue of its vector."""
        entry = self.entries.get(serial)
        if entry is None or entry.done or (entry.aborted and self.disk.driver != "nvme"):
            self.count("late")
            return
        if entry.polled:
            self.post(serial, entry)
            return
        entry.done = True
        queue = self.completion_queues[entry.vector]
        queue.append(serial)
        params = self.disk.params
        time_ns = params.get("coalesce_time_ns", 0)
        if time_ns and len(queue) <= params.get("coalesce_threshold", 0):
            if len(queue) == 1:
                self.coalesce_at[entry.vector] = done_ns + time_ns
            return
        self.interrupt(entry.vector)

    def post(self, serial: int, entry: Entry) -> None:
        """An entry in the completion queue of a polled queue: its poller's CPU can see it."""
        del self.entries[serial]
        self.attempts.pop(entry.cookie, None)
        self.count("posted")
        cpu = self.live(entry.ctx_cpu)
        self.node.interrupt(cpu, entry.vector, [[entry.data, entry.status]], POSTED)

    def interrupt(self, vector: int) -> None:
        """Raise a vector's interrupt: its CPU is given every entry of the completion queue."""
        self.coalesce_at[vector] = NEVER
        for fault in self.errors:
            if fault[0] == "lose-irq" and self.struck(fault):
                self.count("lost_interrupts")
                return
        cpu = self.vector_cpu(vector)
        if cpu < 0:
            self.count("lost_interrupts")
            return
        self.node.interrupt(cpu, vector, self.take_entries(vector), 0)
        if self.disk.vectors and self.moving[vector]:
            self.irq_move(vector)

    def take_entries(self, vector: int) -> list[list[Any]]:
        """Take what is in a completion queue: [request, status] each; it is the device's no more."""
        taken = []
        for serial in self.completion_queues[vector]:
            entry = self.entries.pop(serial)
            self.attempts.pop(entry.cookie, None)
            taken.append([entry.data, entry.status])
        self.completion_queues[vector] = []
        return taken

    # -- Vectors ----------------------------------------------------------------------------------

    def vector_cpu(self, vector: int) -> int:
        """Return the CPU that a vector interrupts, -1 if it is shut down."""
        if not self.disk.vectors:
            return self.live(vector)
        usable = self.affinity[vector] & self.online
        if usable:
            return cpumask_first(usable)
        return -1 if self.disk.managed else cpumask_first(self.online)

    def set_affinity(self, vector: int, mask: int) -> str:
        """``/proc/irq/N/smp_affinity`` is written: the vector moves with its next interrupt."""
        assert not self.disk.managed
        if not mask & self.online:
            return "refused: EINVAL, none of these CPUs is online"
        self.moving[vector] = mask
        return "done"

    def irq_move(self, vector: int) -> None:
        """``irq_move_masked_irq()``: what was written is gone by from now on."""
        mask, self.moving[vector] = self.moving[vector], 0
        if mask & self.online:
            self.affinity[vector] = mask

    def live(self, cpu: int) -> int:
        """Return a CPU, or the lowest online one if it is not online."""
        return cpu if self.online >> cpu & 1 else cpumask_first(self.online)

    def cpu_state(self, cpu: int, online: int) -> None:
        """A CPU has gone or come: its vectors with it."""
        if online:
            self.online |= 1 << cpu
        else:
            for vector, mask in enumerate(self.moving):
                if mask and self.vector_cpu(vector) == cpu:
                    self.irq_move(vector)  # it will not interrupt there any more
            self.online &= ~(1 << cpu)

    # -- Timeouts ---------------------------------------------------------------------------------

    def scan(self, now_ns: int, cpu: int) -> None:
        """``blk_mq_timeout_work()``: time out what has expired, set the timer to the rest."""
        now = now_ns // self.tick_ns
        for serial in list(self.entries):
            entry = self.entries.get(serial)
            if entry is not None and entry.deadline <= now:
                self.timed_out(serial, entry, now_ns, cpu)
        soonest = min((entry.deadline for entry in self.entries.values()), default=NEVER)
        if soonest < NEVER:
            self.timer.rearm(soonest, now, cpu)

    def timed_out(self, serial: int, entry: Entry, now_ns: int, cpu: int) -> None:
        """The driver's ``->timeout()`` of one request."""
        self.count("timeouts")
        rule = ON_TIMEOUT.get(self.disk.driver, ABORT)
        if rule == POLL:
            self.nvme_timeout(serial, entry, now_ns, cpu)
            return
        entry.deadline = now_ns // self.tick_ns + self.timeout  # BLK_EH_RESET_TIMER
        if rule == ABORT:
            entry.deadline = NEVER  # RQF_TIMED_OUT
            if entry.done:
                self.completion_queues[entry.vector].remove(serial)
            entry.aborted, entry.done = 1, False  # what completes now comes too late
            tmf_ns = now_ns + self.hz // 100 * self.tick_ns
            heappush(self.abort_at, (max(tmf_ns, now_ns + self.answer_ns), serial))
        elif rule == END:
            self.give_back(serial, ETIMEDOUT, cpu)

    def nvme_timeout(self, serial: int, entry: Entry, now_ns: int, cpu: int) -> None:
        """``nvme_timeout()``: look into the completion queue, abort, reset."""
        name = self.disk.name.partition("n1")[0]
        line = f"nvme {name}: I/O {serial % self.depth} QID {entry.vector + 1} timeout"
        if entry.done:
            self.node.event(cpu, [], [f"{line}, completion polled"])
            self.count("polled")
            self.node.interrupt(cpu, entry.vector, self.take_entries(entry.vector), 1)
        elif not entry.aborted:
            entry.aborted = 1
            entry.deadline = now_ns // self.tick_ns + self.timeout
            self.node.event(cpu, [], [f"{line}, aborting"])
            self.count("aborts")
        else:
            self.node.event(cpu, [], [f"{line}, reset controller"])
            self.reset(now_ns)

    def abort(self, serial: int) -> None:
        """``scmd_eh_abort_handler()``: the command is aborted, and sent again or given up."""
        entry = self.entries.get(serial)
        if entry is None:
            return
        self.count("aborts")
        retries = self.attempts.get(entry.cookie, 0) + 1
        self.attempts[entry.cookie] = retries
        if retries > SCSI_RETRIES:
            self.give_back(serial, EIO, self.live(entry.source))
        else:
            self.requeue([serial])

    def give_back(self, serial: int, status: int, cpu: int) -> None:
        """End a request that the device will not: its CPU is told the status."""
        entry = self.entries.pop(serial)
        self.attempts.pop(entry.cookie, None)
        self.node.interrupt(cpu, entry.vector, [[entry.data, status]], 1)

    def requeue(self, serials: list[int]) -> None:
        """Give requests back to be sent again, each to the CPU that allocated it."""
        by_cpu: dict[int, list[list[Any]]] = {}
        for serial in serials:
            entry = self.entries.pop(serial)
            by_cpu.setdefault(self.live(entry.ctx_cpu), []).append(entry.data)
            self.count("requeued")
        for cpu in sorted(by_cpu):
            self.node.event(cpu, by_cpu[cpu], [])

    def reset(self, now_ns: int) -> None:
        """Reset the device: it forgets everything, and begins again when it is up."""
        self.count("resets")
        self.model.clear()
        self.flushes.clear()
        self.abort_at.clear()
        for queue in self.completion_queues:
            queue.clear()
        self.coalesce_at = [NEVER] * len(self.coalesce_at)
        self.up_ns = max(self.up_ns, now_ns + self.disk.params.get("reset_ns", 100_000_000))
        self.requeue(list(self.entries))

    # -- Faults -----------------------------------------------------------------------------------

    def fault(self, fault: Fault, now_ns: int) -> None:
        """Let a fault strike from now on."""
        if fault.verb == "slow":
            self.slow = [now_ns + fault.ns, fault.percent]
        elif fault.verb == "reset":
            self.reset(now_ns)
        elif fault.verb != "busy":  # that one is the drivers'
            how = [fault.verb, fault.first, fault.last, fault.every, fault.count, fault.status, 0]
            self.errors.append(how)

    def strike(self, entry: Entry) -> bool:
        """Set the status that faults give a request; return whether it is dropped instead."""
        dropped = self.debug_opts(entry)
        for fault in self.errors:
            verb, first, last = fault[:3]
            touches = entry.sector <= last and entry.sector + entry.nr_sector > first
            if verb == "lose-irq" or not touches or not self.struck(fault):
                continue
            if verb == "drop":
                dropped = True
            else:
                entry.status = fault[5]
                self.count("errors")
        return dropped

    def struck(self, fault: list[Any]) -> bool:
        """Count one match of a fault; return whether this is one of those that it strikes."""
        if not fault[4]:
            return False
        fault[6] += 1
        if fault[6] % fault[3]:
            return False
        fault[4] -= 1
        return True

    def debug_opts(self, entry: Entry) -> bool:
        """scsi_debug's own injections (``opts``, ``every_nth``); return whether it is dropped."""
        opts = self.disk.params.get("opts", 0)
        if not opts:
            return False
        start, end = MEDIUM_ERR_START, MEDIUM_ERR_START + MEDIUM_ERR_NUM
        touches = entry.sector < end and entry.sector + entry.nr_sector > start
        if opts & OPT_MEDIUM_ERR and entry.rw == READ and touches:
            entry.status = ENODATA
        every = self.disk.params.get("every_nth", 0)
        if not every or self.rung % every:
            return False
        if opts & OPT_TRANSPORT_ERR:
            entry.status = EIO
        return bool(opts & OPT_TIMEOUT)

    # -- State ------------------------------------------------------------------------------------

    def pack(self) -> list[Any]:
        """Return the changing state."""
        return [
            self.model.pack(),
            self.timer.pack(),
            mask_to_plain(self.online),
            [self.serial, self.rung, self.up_ns, self.slow],
            [[serial, *entry.pack()] for serial, entry in self.entries.items()],
            [[cookie, retries] for cookie, retries in self.attempts.items()],
            [self.completion_queues, self.coalesce_at],
            [list(abort) for abort in self.abort_at],
            self.errors,
            [[name, value] for name, value in self.counters.items()],
            [list(flush) for flush in self.flushes],
            [mask_to_plain(mask) for mask in (*self.affinity, *self.moving)],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.model.unpack(data[0])
        self.timer.unpack(data[1])
        self.online = int.from_bytes(data[2], "little")
        self.serial, self.rung, self.up_ns, self.slow = data[3]
        self.entries = {serial: Entry(*entry) for serial, *entry in data[4]}
        self.attempts = dict(data[5])
        self.completion_queues, self.coalesce_at = data[6]
        self.abort_at = [(at_ns, serial) for at_ns, serial in data[7]]
        self.errors = data[8]
        self.counters = dict(data[9])
        self.flushes = [(at_ns, serial) for at_ns, serial in data[10]]
        masks = [int.from_bytes(mask, "little") for mask in data[11]]
        self.affinity, self.moving = masks[: len(masks) // 2], masks[len(masks) // 2 :]


def mask_to_plain(mask: int) -> bytes:
    """Return a mask of CPUs, of whatever size, as bytes."""
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def hctx_map(disk: DiskSpec, nr_cpus: int) -> list[int]:
    """Return the vector of each CPU's requests: its hardware queue's."""
    found = [0] * nr_cpus
    if disk.managed:
        for vector, mask in enumerate(disk.vectors):
            for cpu in for_each_cpu(mask):
                found[cpu] = vector
    return found
