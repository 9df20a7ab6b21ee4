"""The device node: owner of a disk's tags and of the truth about every request.

Theory of operation
-------------------
A driver whose service of a request does not depend on other requests (:data:`DRIVERS`) announces its
service time ahead, to each CPU for a stretch of :data:`~emulator.types.SCHEDULE_REQUESTS` requests.
CPUs then compute completions themselves; without a schedule a request is a DOORBELL message and so
is its completion.  A CPU that has used half of its schedule asks for the next one.  The device then
looks at all its doorbells (mail) and grants as much again.

Whichever way a request went, its doorbell comes in the mail, is computed again and compared (a
difference is a BUG).  The log is written period by period (:data:`~emulator.types.DOORBELL_PERIOD_NS`)
in order of time; what rang in the period in which a run ends is not in it.

Tags are leased, one map per hardware queue (:mod:`tagmap`).

A device whose requests depend on each other, or whose interrupts have a CPU of their own, or that has
been struck by a fault, announces nothing: each request comes with its doorbell (REQUEST) and is here
until its interrupt takes it back (:mod:`controller`).

Departures from the kernel: which tag a request has has no timing effect and is not tracked.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.device import null_blk, scsi_debug
from emulator.device.controller import Controller
from emulator.device.tagmap import TagMap
from emulator.faults import parse_fault
from emulator.irq_affinity import irq_disk
from emulator.nodebase import NodeBase
from emulator.queue_map import queue_map
from emulator.types import (
    CLASSES,
    DOORBELL_PERIOD_NS,
    NEVER,
    SCHEDULE_REQUESTS,
    BoxSpec,
    Message,
    Promise,
    TraceSink,
    cpulist_parse,
)

#: driver name -> (service time of a request in ns, tags of a hardware queue); a new driver is a file
#: and a line here.
DRIVERS = {
    "scsi_debug": (scsi_debug.service_ns, scsi_debug.queue_depth),
    "null_blk": (null_blk.service_ns, null_blk.queue_depth),
}


#: Sequence numbers of what is no completion begin here: a completion's is its cookie, whoever
#: computes it, and must sort the same way among them with and without schedules.
OTHERS_SEQ = 1 << 56


class Disk(NodeBase):
    """The node of one disk."""

    __slots__ = (
        "announced_to",
        "announces",
        "answer_ns",
        "coherence_ns",
        "controller",
        "log",
        "name",
        "params",
        "queue_of",
        "rung",
        "rung_by",
        "service_ns",
        "tag_maps",
    )

    def __init__(self, spec: BoxSpec, index: int, sink: TraceSink) -> None:
        nr_cpus = spec.machine.nr_cpus
        super().__init__(nr_cpus + 1 + index, nr_cpus)
        disk = spec.disks[index]
        self.name = disk.name
        self.params = disk.params
        if disk.vectors:
            self.service_ns = 0
            depth = disk.params["hw_queue_depth"]
        else:
            service, queue_depth = DRIVERS[disk.driver]
            self.service_ns = service(disk.params)
            depth = queue_depth(disk.params)
        self.queue_of = queue_map(spec, index)  # per CPU, its hardware queue
        self.tag_maps = [
            TagMap(
                self.send_others,
                [cpu for cpu in range(nr_cpus) if self.queue_of[cpu] == queue],
                depth,
                spec.kernel.rules.sbq_global_count,
            )
            for queue in range(max(self.queue_of) + 1)
        ]
        costs = spec.costs
        # No message to a CPU is faster than one CPU's to another (Latencies.cpu_ns).
        self.answer_ns = max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))
        self.coherence_ns = costs.coherence_ns
        self.seq = OTHERS_SEQ
        self.announces = disk.schedules and not disk.carries
        self.announced_to = list(range(nr_cpus)) if self.announces else []  # CPUs with a schedule
        self.sink: TraceSink = sink
        self.log: list[tuple[int, ...]] = []  # heap of doorbells that are not recorded yet
        self.rung_by = [0] * nr_cpus  # doorbells seen, per CPU
        self.rung = 0  # doorbells recorded
        self.controller = Controller(spec, index, self, self.service_ns, self.answer_ns)

    # -- Node -------------------------------------------------------------------------------------

    def own_next_ns(self) -> int:
        """Return when the device does something, or a doorbell is recorded."""
        return max(min(self.recording_ns(), self.controller.next_ns()), self.clock_ns)

    def recording_ns(self) -> int:
        """Return when the oldest doorbell that has come, or is in the mail, is recorded."""
        soonest = self.record_ns(self.log[0][0]) if self.log else NEVER
        # What was mailed by the end of a period rang in it, or before.
        mailed = self.record_ns(self.mail[0][0] - self.coherence_ns - 1) if self.mail else NEVER
        return min(soonest, mailed)

    def record_ns(self, rung_ns: int) -> int:
        """Return when the doorbells of a period are recorded: they have all come by mail then."""
        return (rung_ns // DOORBELL_PERIOD_NS + 1) * DOORBELL_PERIOD_NS + self.coherence_ns

    def reads(self, message: Message | None) -> bool:
        """Return whether an event looks at the mail: recording, and granting a schedule, do."""
        if message is None:
            return self.recording_ns() < self.controller.next_ns()
        return message[4] == messages.SCHEDULE_REQUEST

    def promise(self) -> Promise:
        """Return what this node promises: mail makes it record, not send."""
        answers_ns = self.inbox[0][0] if self.inbox else NEVER
        acts_ns = max(self.controller.next_ns(), self.clock_ns)
        send_ns = [min(answers_ns, acts_ns)] * CLASSES
        mail_ns = self.record_ns(self.reached_ns - self.coherence_ns - 1)
        soonest = self.next_event_ns()
        return Promise(
            self.reached_ns, soonest, send_ns, mail_ns, self.wants_view, mail_sends=False
        )

    def fire(self, now_ns: int) -> None:
        """Let the device do what is due, or record the doorbells of the periods that are over."""
        if self.controller.next_ns() <= now_ns:
            self.controller.fire(now_ns)
            return
        over_ns = now_ns - self.coherence_ns
        while self.log and self.log[0][0] < over_ns:
            rung_ns, source, cookie, sector, rw, done_ns = heappop(self.log)
            self.sink.emit(rung_ns, tp.BOX_DOORBELL, 0, 0, 0, source, cookie, sector, rw, done_ns)
            self.rung += 1

    def handle(self, message: Message) -> None:
        """Take doorbells and requests for tags and schedules."""
        _stamp, source, _seq, _target, op, args = message
        if op == messages.DOORBELLS:
            for bell in args[0]:
                self.check(source, bell)
        elif op == messages.DOORBELL:
            self.complete(source, args[0], args[1])
        elif op == messages.SCHEDULE_REQUEST:
            self.renew(source, args[0])
        elif op == messages.TAG_REQUEST:
            nr, must, pid = args
            self.map_of(source).request(source, nr, bool(must), pid)
        elif op == messages.TAG_RETURN:
            nr, owner, why, waiters, restart, waker_pid, cause = args
            waker = (source, waker_pid, cause)
            self.map_of(owner).returned(nr, owner, why, waiters, restart, waker)
        elif op == messages.REQUEST:
            done_ns = self.controller.arrive(source, args)
            _data, rung_ns, cookie, _ctx, rw, sector, nr_sector = args[:7]
            heappush(self.log, (rung_ns, source, cookie, sector, rw | nr_sector << 1, done_ns))
        elif op == messages.SCAN:
            self.controller.scan(self.clock_ns, source)
        elif op == messages.CPU_STATE:
            self.controller.cpu_state(source, args[0])
        else:
            assert op == messages.COMMAND, f"{self.name} got op {op}"
            self.command(list(args[0]))

    def check(self, source: int, bell: list[int]) -> None:
        """Compute a request's completion and compare it with what its CPU computed."""
        rung_ns, cookie, sector, nr_sector, rw, done_ns = bell
        takes_ns = self.service_ns
        if not nr_sector:
            takes_ns = max(takes_ns, self.params["flush_ns"])
        mine = rung_ns + takes_ns
        assert mine == done_ns, (
            f"BUG: {self.name} completes request {cookie:#x} of CPU {source} at {mine} ns, "
            f"the CPU at {done_ns} ns"
        )
        self.rung_by[source] += 1
        heappush(self.log, (rung_ns, source, cookie, sector, rw | nr_sector << 1, done_ns))

    def command(self, words: list[str]) -> None:
        """Move an interrupt, or let a fault strike: from then on every request comes here."""
        if words[0] == "irq":
            vector = irq_disk(int(words[1]))[1]
            answer = self.controller.set_affinity(vector, cpulist_parse(words[3]))
            self.send(messages.COORDINATOR, messages.COMMAND_DONE, (words, answer), self.clock_ns)
            return
        self.announces = False
        self.controller.fault(parse_fault(words), self.clock_ns)
        self.send(messages.COORDINATOR, messages.COMMAND_DONE, (words, "done"), self.clock_ns)

    # -- What the controller sends ----------------------------------------------------------------

    def interrupt(self, cpu: int, vector: int, entries: list[list[Any]], polled: int) -> None:
        """Carry completion entries to a CPU."""
        self.send_others(cpu, messages.INTERRUPT, (vector, entries, polled))

    def event(self, cpu: int, requests: list[list[Any]], lines: list[str]) -> None:
        """Have a CPU's driver send requests again, and log lines."""
        self.send_others(cpu, messages.DRIVER_EVENT, (requests, lines))

    def expired(self, cpu: int) -> None:
        """Tell a CPU that the queue's timer has expired there."""
        self.send_others(cpu, messages.TIMEOUT, ())

    # -- Requests ---------------------------------------------------------------------------------

    def complete(self, source: int, cookie: int, done_ns: int) -> None:
        """Serve a request that was not announced; its CPU may have a schedule from then on."""
        others, self.seq = self.seq, cookie - 1
        self.send(source, messages.COMPLETION, (cookie, 0), done_ns)
        self.seq = others
        if self.announces and source not in self.announced_to:
            self.announced_to.append(source)
            self.send_schedule(source, SCHEDULE_REQUESTS)

    def renew(self, source: int, rings: int) -> None:
        """Half of a CPU's schedule is used: grant as much again, or nothing more."""
        assert rings == self.rung_by[source], (
            f"BUG: CPU {source} has rung {self.name} {rings} times, {self.rung_by[source]} seen"
        )
        if self.announces:
            self.send_schedule(source, SCHEDULE_REQUESTS // 2)
        else:
            self.announced_to.remove(source)
            self.send_schedule(source, 0)

    def send_schedule(self, source: int, count: int) -> None:
        """Announce the service time of a CPU's next requests."""
        self.send_others(source, messages.SCHEDULE, (self.service_ns, count))

    # -- Tags -------------------------------------------------------------------------------------

    def map_of(self, cpu: int) -> TagMap:
        """Return the tags of a CPU's hardware queue."""
        return self.tag_maps[self.queue_of[cpu]]

    def send_others(self, source: int, op: int, args: tuple[Any, ...]) -> None:
        """Send a CPU something about this disk, whose index comes first."""
        index = self.node_id - self.nr_cpus - 1
        self.send(source, op, (index, *args), self.clock_ns + self.answer_ns)

    # -- State ------------------------------------------------------------------------------------

    def books(self) -> dict[str, Any]:
        """Return the tags and how many requests were served."""
        returned = [m[5][0] for m in self.inbox if m[4] == messages.TAG_RETURN]
        coming = [m[5] for m in self.inbox if m[4] == messages.REQUEST]
        entries = self.controller.entries.values()
        waiting = [tags.sbq.waiters for tags in self.tag_maps]
        joining = [m[5][3] for m in self.inbox if m[4] == messages.TAG_RETURN]
        return {
            "tag_waiters": [
                *(pid for queues in waiting for queue in queues for _cpu, pid in queue),
                *(pid for queues in joining for queue in queues for pid in queue),
            ],
            "tags": sum(tags.depth for tags in self.tag_maps),
            "free_tags": sum(tags.free for tags in self.tag_maps) + sum(returned),
            "rung": self.rung,
            "held": len(coming) + len(entries),
            "carried": [
                *(entry.io for entry in entries if entry.io and entry.io[0]),
                *(list(args[7:9]) for args in coming if args[7]),
            ],
            "pages": sum(entry.io[1] for entry in entries if entry.io and not entry.io[0])
            + sum(args[8] for args in coming if not args[7]),
            "device": {"name": self.name, **self.controller.counters},
        }

    def snapshot(self) -> list[Any]:
        """Return the whole state."""
        return [
            [self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view],
            [[list(m) for m in box] for box in (self.outbox, self.inbox, self.mail)],
            [[tags.pack() for tags in self.tag_maps], self.rung, self.service_ns],
            [self.announced_to, self.rung_by, [list(bell) for bell in self.log], self.announces],
            self.controller.pack(),
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view = state[0]
        boxes = [[messages.message_from_list(m) for m in box] for box in state[1]]
        self.outbox[:], self.inbox, self.mail = boxes
        tag_maps, self.rung, self.service_ns = state[2]
        for tags, packed in zip(self.tag_maps, tag_maps, strict=True):
            tags.unpack(packed)
        self.announced_to, self.rung_by, log, self.announces = state[3]
        self.controller.unpack(state[4])
        self.log = [tuple(bell) for bell in log]
