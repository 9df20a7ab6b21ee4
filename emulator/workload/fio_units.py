"""The IO units of a fio job: which are free, which are queued, which are in flight since when.

Theory of operation
-------------------
A job has ``iodepth`` units.  A unit is taken from a stack of free ones, *queued* as an iocb in the
engine's array, *issued* by io_submit() and *completed* when it is reaped, which frees it.  The
engine's array is circular and io_submit() takes what lies in it in one piece, so a batch that does
not divide the depth is now and then handed over in two calls.  Units never travel twice: that each
completes once is asserted here.
"""

from __future__ import annotations

from array import array
from typing import Any

from emulator.workload.fio_books import Direction

#: (unit, rw, file, offset, length): see OP_IO_SUBMIT.
Iocb = tuple[int, int, int, int, int]

_NOT_IN_FLIGHT = -1


class Units:
    """All units of one job."""

    __slots__ = (
        *("free", "in_flight", "iodepth", "issued", "lengths"),
        *("queued", "rws", "started", "tail"),
    )

    def __init__(self, iodepth: int) -> None:
        self.iodepth = iodepth
        self.free = list(range(iodepth - 1, -1, -1))  #: a stack, as fio's free list
        self.started = array("q", [0]) * iodepth  #: when the unit was handed to the engine
        self.issued = array("q", [_NOT_IN_FLIGHT]) * iodepth  #: when its io_submit() had returned
        #: READ or WRITE, of a job that does both; see FioJob.mixed
        self.rws = bytearray(iodepth)
        self.lengths = array("q", [0]) * iodepth  #: bytes, of a job of several sizes
        self.queued: list[Iocb] = []  #: handed to the engine, not yet submitted
        self.tail = 0  #: of the engine's array
        self.in_flight = 0

    def depth(self) -> int:
        """Return fio's current depth: the units that are not free."""
        return self.iodepth - len(self.free)

    def batch(self) -> list[Iocb]:
        """Return the iocbs that the next io_submit() takes."""
        room = self.iodepth - self.tail
        return self.queued if len(self.queued) <= room else self.queued[:room]

    def issue(self, now_ns: int, count: int, direction: Direction | None) -> None:
        """Count the first ``count`` queued units as issued; record slat unless None."""
        for iocb in self.queued[:count]:
            unit = iocb[0]
            assert self.issued[unit] == _NOT_IN_FLIGHT, f"unit {unit} was issued twice"
            self.issued[unit] = now_ns
            if direction:
                direction.slat.fresh.append(now_ns - self.started[unit])
        self.queued = self.queued[count:]
        self.tail = (self.tail + count) % self.iodepth
        self.in_flight += count

    def complete(self, now_ns: int, unit: int, direction: Direction | None) -> None:
        """Free a unit that was reaped; record clat and lat unless None."""
        issued_ns = self.issued[unit]
        assert issued_ns != _NOT_IN_FLIGHT, f"unit {unit} completed but was not in flight"
        self.issued[unit] = _NOT_IN_FLIGHT
        self.in_flight -= 1
        self.free.append(unit)
        if direction:
            direction.clat.fresh.append(now_ns - issued_ns)
            direction.lat.fresh.append(now_ns - self.started[unit])

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [
            self.iodepth,
            self.tail,
            self.in_flight,
            list(self.free),
            self.started.tobytes(),
            self.issued.tobytes(),
            bytes(self.rws),
            self.lengths.tobytes(),
            [list(iocb) for iocb in self.queued],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> Units:
        """Rebuild what :meth:`pack` returned."""
        units = cls.__new__(cls)
        units.iodepth, units.tail, units.in_flight, free, *rest = data
        started, issued, rws, lengths, queued = rest
        units.free = list(free)
        units.started, units.issued = array("q", started), array("q", issued)
        units.lengths = array("q", lengths)
        units.rws = bytearray(rws)
        units.queued = [(iocb[0], iocb[1], iocb[2], iocb[3], iocb[4]) for iocb in queued]
        return units
