"""The device node: owner of a disk's tags and of the truth about every request.

Theory of operation
-------------------
A driver whose service of a request does not depend on other requests (:data:`DRIVERS`) announces its
service time ahead.  CPUs then compute completions themselves and send their doorbells in batches;
the device computes every one again, compares, and records it.  A difference is a BUG.  Without the
announcement each request is a message of its own and so is its completion.

Tags are leased: CPUs hold some from the start and ask for more when they run short.  A CPU that goes
offline returns its own; one is kept for it, so that it can always begin again.

Departures from the kernel: which CPU holds which tag has no timing effect and is not tracked, only
how many.
"""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.device import null_blk, scsi_debug
from emulator.nodebase import NodeBase
from emulator.types import NEVER, BoxSpec, Message, TraceSink

#: driver name -> (service time of a request in ns, tags); a new driver is a file and a line here.
DRIVERS = {
    "scsi_debug": (scsi_debug.service_ns, scsi_debug.nr_tags),
    "null_blk": (null_blk.service_ns, null_blk.nr_tags),
}


class Disk(NodeBase):
    """The node of one disk."""

    __slots__ = (
        "answer_ns",
        "completed",
        "free_tags",
        "kept_tags",
        "name",
        "params",
        "rung",
        "service_ns",
        "sink",
        "tags",
        "wanting",
    )

    def __init__(self, spec: BoxSpec, index: int, sink: TraceSink) -> None:
        nr_cpus = spec.machine.nr_cpus
        super().__init__(nr_cpus + 1 + index, nr_cpus)
        disk = spec.disks[index]
        service, nr_tags = DRIVERS[disk.driver]
        self.name = disk.name
        self.params = disk.params
        self.service_ns = service(disk.params)
        self.tags = nr_tags(disk.params)
        self.free_tags = self.tags - nr_cpus * max(1, self.tags // (4 * nr_cpus))
        self.kept_tags: list[int] = []  # CPUs that went offline and have one tag waiting for them
        self.wanting: list[int] = []  # CPUs that asked when there was none
        costs = spec.costs
        # No message to a CPU is faster than one CPU's to another (Latencies.cpu_ns).
        self.answer_ns = max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))
        self.sink = sink
        self.rung = 0
        self.completed = 0

    # -- Node -------------------------------------------------------------------------------------

    def own_next_ns(self) -> int:
        """A disk does nothing of its own accord."""
        return NEVER

    def fire(self, now_ns: int) -> None:
        """Never called."""
        raise AssertionError(f"{self.name} has no events of its own")

    def handle(self, message: Message) -> None:
        """Take doorbells and requests for tags."""
        _stamp, source, _seq, _target, op, args = message
        if op == messages.DOORBELLS:
            for bell in args[0]:
                self.record(source, bell)
        elif op == messages.DOORBELL:
            self.ring(source, args[0])
        elif op == messages.TAG_REQUEST:
            self.grant(source, args[0])
        elif op == messages.TAG_RETURN:
            self.take_back(args[0], args[1])
        else:
            assert op == messages.COMMAND, f"{self.name} got op {op}"
            self.send(messages.COORDINATOR, messages.COMMAND_DONE, (args[0], "done"), self.clock_ns)

    def ring(self, source: int, bell: list[int]) -> None:
        """Serve a request that was not announced: its completion is a message."""
        done_ns = self.record(source, bell)
        self.send(source, messages.COMPLETION, (bell[1], 0), done_ns)

    def record(self, source: int, bell: list[int]) -> int:
        """Compute a request's completion, compare it with what the CPU computed, record it."""
        rung_ns, cookie, sector, nr_sector, rw, done_ns = bell
        mine = rung_ns + self.service_ns
        assert mine == done_ns, (
            f"BUG: {self.name} completes request {cookie:#x} of CPU {source} at {mine} ns, "
            f"the CPU at {done_ns} ns"
        )
        self.rung += 1
        self.sink.emit(
            rung_ns, tp.BOX_DOORBELL, 0, 0, 0, source, cookie, sector, rw | nr_sector << 1, done_ns
        )
        return mine

    def grant(self, source: int, wanted: int) -> None:
        """Lease tags to a CPU, as many as there are."""
        nr = min(wanted, self.free_tags)
        self.free_tags -= nr
        if source in self.kept_tags:
            self.kept_tags.remove(source)
            nr += 1
        if not nr and source not in self.wanting:
            self.wanting.append(source)
        self.send_grant(source, nr)

    def take_back(self, nr: int, owner: int) -> None:
        """Take the tags of a CPU that went offline; one is kept for its return."""
        if owner in self.wanting:
            self.wanting.remove(owner)
            self.send_grant(owner, nr)
            return
        if owner not in self.kept_tags:
            self.kept_tags.append(owner)
            nr -= 1
        self.free_tags += nr

    def send_grant(self, source: int, nr: int) -> None:
        """Tell a CPU by how much its lease grows."""
        index = self.node_id - self.nr_cpus - 1
        self.send(source, messages.TAG_GRANT, (index, nr), self.clock_ns + self.answer_ns)

    def books(self) -> dict[str, Any]:
        """Return the tags and how many requests were served."""
        returned = [m[5][0] for m in self.inbox if m[4] == messages.TAG_RETURN]
        return {
            "tags": self.tags,
            "free_tags": self.free_tags + len(self.kept_tags) + sum(returned),
            "rung": self.rung,
        }

    def snapshot(self) -> list[Any]:
        """Return the whole state."""
        return [
            [self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view],
            [[list(m) for m in box] for box in (self.outbox, self.inbox, self.mail)],
            [self.free_tags, self.rung, self.service_ns, self.kept_tags, self.wanting],
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view = state[0]
        boxes = [[messages.message_from_list(m) for m in box] for box in state[1]]
        self.outbox[:], self.inbox, self.mail = boxes
        self.free_tags, self.rung, self.service_ns, self.kept_tags, self.wanting = state[2]
