"""A device that serves so many requests at once, each in a time of its own: flash, RAM, a host.

A request is taken by the unit that is free first, in order of arrival; its data then shares one link
of limited rate with the others'.  Scsi_debug and null_blk are such devices too, with as many units as
tags and one fixed time, once their requests are asked for one by one.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from emulator.device.latency import Draw
from emulator.types import NEVER, READ

#: Bytes that the profile's times are for: only what is more is transferred in time of its own.
BASE_BYTES = 4096


class Units:
    """What is inside such a device; a request is known by its serial number."""

    __slots__ = ("draw", "ends", "free_at", "last", "link_ns", "units")

    def __init__(self, draw: Draw, units: int) -> None:
        self.draw = draw
        self.units = units
        self.free_at: list[int] = []  #: heap of the times at which busy units become free
        self.ends: list[tuple[int, int]] = []  #: heap of (time, serial) of what is being served
        self.last = [-1, -1]  #: by direction: the sector behind the last request
        self.link_ns = 0  #: until when the link is taken

    def start(
        self, rung_ns: int, serial: int, rw: int, sector: int, nr_sector: int, percent: int
    ) -> int:
        """Take a request that was rung at a time; return when it is done.

        ``percent`` is how long it takes in comparison with what is usual.
        """
        way = min(rw, 1)
        sequential = self.last[way] == sector
        self.last[way] = sector + nr_sector
        begin_ns = rung_ns
        while self.free_at and self.free_at[0] <= rung_ns:
            heappop(self.free_at)
        if len(self.free_at) >= self.units:
            begin_ns = heappop(self.free_at)
        service_ns = self.draw.service_ns(rw != READ, sequential) * percent // 100
        done_ns = begin_ns + service_ns + self.transfer(begin_ns, nr_sector * 512)
        heappush(self.free_at, done_ns)
        heappush(self.ends, (done_ns, serial))
        return done_ns

    def transfer(self, begin_ns: int, nr_bytes: int) -> int:
        """Return how much longer a request takes for its data; the link is taken that long."""
        rate = self.draw.profile.mb_per_s
        if not rate:
            return 0
        takes_ns = nr_bytes * 1000 // rate
        waits_ns = max(0, self.link_ns - begin_ns)
        self.link_ns = begin_ns + waits_ns + takes_ns
        return waits_ns + max(0, nr_bytes - BASE_BYTES) * 1000 // rate

    def next_ns(self) -> int:
        """Return when the next request is done, or NEVER."""
        return self.ends[0][0] if self.ends else NEVER

    def take(self) -> tuple[int, int]:
        """Take the request that is done next: (time, serial)."""
        return heappop(self.ends)

    def clear(self) -> None:
        """Forget every request."""
        self.ends.clear()
        self.free_at.clear()
        self.link_ns = 0

    def pack(self) -> list[Any]:
        """Return the changing state."""
        return [
            self.draw.state,
            self.free_at,
            [list(end) for end in self.ends],
            self.last,
            self.link_ns,
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.draw.state, self.free_at, ends, self.last, self.link_ns = data
        self.ends = [(done_ns, serial) for done_ns, serial in ends]
