"""An event loop over AIO: it submits, waits until something is finished, and works on all that is.

Theory of operation
-------------------
``iodepth`` IOs of ``bs`` bytes are in flight, one behind the other in the file.  The loop waits, by
default in a read of an eventfd that every finished IO signals (IOCB_FLAG_RESFD), as loops do that wait
for sockets and timers too; with ``eventfd`` 0 in ``io_getevents()`` itself.  Then it takes all events
there are, burns ``work_ns`` for each, and submits as many IOs again.

So one wakeup is worth as many IOs as finish while it works.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    OP_EVENTFD_READ,
    OP_EXIT,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    READ,
    WRITE,
    Op,
)
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

#: ``ios`` 0: no end.
AIO_LOOP_PARAMS: dict[str, Any] = {
    "file": 0,
    "size": 64 << 20,
    "bs": 4096,
    "iodepth": 32,
    "work_ns": 20_000,
    "write": 1,
    "eventfd": 1,
    "ios": 0,
    "stats_from_ns": 0,
}

# What has just returned.
PC_START = 0
PC_SUBMITTED = 1
PC_SIGNALLED = 2
PC_TAKEN = 3
PC_WORKED = 4


class AioLoopProgram(Tallied):
    """Submits, waits, takes, works; counts IOs and how often it waited, and how long."""

    name = "aio_loop"
    counts = ("ios", "waits", "errors")
    times = ("wait_ns",)

    __slots__ = ("config", "flying", "left", "offset", "pc", "since_ns", "taken")

    def __init__(self, config: list[int]) -> None:
        #: file, size, bs, iodepth, work_ns, write, eventfd, stats_from_ns
        self.config = config
        _, size, bs, iodepth, *_ = config
        if bs <= 0 or bs % 512 or iodepth <= 0 or size < bs:
            raise ValueError("aio_loop needs bs of whole sectors, iodepth > 0 and size >= bs")
        self.left = -1  #: IOs to submit, negative: no end
        self.offset = 0
        self.flying = 0  #: IOs that are not taken
        self.taken = 0  #: events that have just been taken
        self.since_ns = 0
        self.pc = PC_START
        super().__init__()

    @property
    def aio_events(self) -> int:
        """It calls io_setup() with its depth."""
        return self.config[3]

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> AioLoopProgram:
        """Build the loop from its parameters, :data:`AIO_LOOP_PARAMS`."""
        option = check_params(cls.name, params, AIO_LOOP_PARAMS)
        names = ("file", "size", "bs", "iodepth", "work_ns", "write", "eventfd", "stats_from_ns")
        loop = cls([option[name] for name in names])
        loop.left = option["ios"] or -1
        return loop

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next step of the loop."""
        if self.pc == PC_START:
            return self._submit(now_ns, self.config[3])
        if self.pc == PC_SUBMITTED:
            return self._wait()
        if self.pc == PC_SIGNALLED:
            self.pc = PC_TAKEN
            return (OP_IO_GETEVENTS, 0, self.config[3])
        if self.pc == PC_TAKEN:
            return self._take(now_ns, result)
        return self._submit(now_ns, self.taken)

    def _take(self, now_ns: int, events: list[tuple[int, int]]) -> Op:
        if not events:
            return self._wait()  # an earlier look has taken what was signalled
        self.taken = len(events)
        self.flying -= self.taken
        tally = self.tally
        if now_ns >= self.config[7]:
            tally.counts["ios"] += self.taken
            tally.counts["waits"] += 1
            tally.counts["errors"] += sum(res < 0 for _data, res in events)
            tally.stats["wait_ns"].add(now_ns - self.since_ns)
        self.pc = PC_WORKED
        return (OP_RUN, self.taken * self.config[4])

    def _submit(self, now_ns: int, nr: int) -> Op:
        file, size, bs, _, _, write, eventfd, _ = self.config
        if self.left >= 0:
            nr = min(nr, self.left)
            self.left -= nr
        self.since_ns = now_ns
        if not nr:
            return self._wait() if self.flying else (OP_EXIT,)
        self.flying += nr
        ios: list[tuple[int, int, int, int, int]] = []
        for number in range(nr):
            if self.offset + bs > size:
                self.offset = 0
            ios.append((number, WRITE if write else READ, file, self.offset, bs))
            self.offset += bs
        self.pc = PC_SUBMITTED
        return (OP_IO_SUBMIT, ios, bool(eventfd))

    def _wait(self) -> Op:
        if self.config[6]:
            self.pc = PC_SIGNALLED
            return (OP_EVENTFD_READ,)
        self.pc = PC_TAKEN
        return (OP_IO_GETEVENTS, 1, self.config[3])

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        where = [self.left, self.offset, self.taken, self.since_ns, self.pc, self.flying]
        return [self.name, list(self.config), where]

    @classmethod
    def unpack(cls, data: list[Any]) -> AioLoopProgram:
        """Rebuild what :meth:`pack` returned."""
        _, config, where = data
        loop = cls(config)
        loop.left, loop.offset, loop.taken, loop.since_ns, *rest = where
        loop.pc, loop.flying = rest
        return loop
