"""A disk with one arm: seek, rotation, transfer, and a command queue that it serves in its own order.

Theory of operation
-------------------
``seek(d) = track + (average - track) * sqrt(3 * d / cylinders)``, at most a full stroke (G.3).  The
platters turn all the time: where a sector is when the arm has arrived follows from the clock, so the
rotational delay is uniform over a turn for sectors that have nothing to do with each other, and next
to nothing for those that follow.  Of the commands queued (NCQ, up to ``ncq``; 1: in order) the one
that the arm can reach first is next.

Departures from a real disk: every track has as many sectors, so the outer ones are not faster; the
write cache is off.  The next command is chosen one message latency before the last one is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from emulator.types import NEVER

NSEC_PER_MINUTE = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Mechanics:
    """What one model of disk is made of; times in ns."""

    about: str
    rpm: int
    track_ns: int  #: seek to the next track
    average_ns: int  #: seek over a third of the cylinders
    full_ns: int
    track_kib: int


#: By preset name (V: drive data sheets).
MECHANICS = {
    "7200": Mechanics(
        "7200 rpm: seek 8.5 ms on average, rotation 4.17 (V)",
        7200, 1_000_000, 8_500_000, 17_000_000, 1024,
    ),
    "5400": Mechanics(
        "5400 rpm, 2.5 inch: seek 12 ms on average, 1 track, 20 full; rotation 5.5 (V)",
        5400, 1_000_000, 12_000_000, 20_000_000, 1024,
    ),
}  # fmt: skip

#: A command waiting: (rung, serial, sector, sectors, percent).
Command = tuple[int, int, int, int, int]


class Hdd:
    """What is inside such a disk; a request is known by its serial number."""

    __slots__ = (
        "cylinder",
        "cylinders",
        "free_ns",
        "mechanics",
        "ncq",
        "queue",
        "serving",
        "turn_ns",
    )

    def __init__(self, mechanics: Mechanics, nr_bytes: int, ncq: int) -> None:
        self.mechanics = mechanics
        self.turn_ns = NSEC_PER_MINUTE // mechanics.rpm
        self.cylinders = max(1, nr_bytes // (mechanics.track_kib << 10))
        self.ncq = ncq
        self.queue: list[Command] = []
        self.serving: list[int] = []  #: [time, serial] of the command under way
        self.cylinder = 0
        self.free_ns = 0  #: when the arm was last done

    def start(
        self, rung_ns: int, serial: int, rw: int, sector: int, nr_sector: int, percent: int
    ) -> int:
        """Take a request; return 0, since when it is done is not known yet."""
        del rw
        self.queue.append((rung_ns, serial, sector, nr_sector, percent))
        if not self.serving:
            self.serve(max(rung_ns, self.free_ns))
        return 0

    def serve(self, now_ns: int) -> None:
        """Choose the next command and start it."""
        reachable = self.queue[: self.ncq]
        times = [self.reach_ns(now_ns, command) for command in reachable]
        place = times.index(min(times))
        _rung, serial, sector, nr_sector, _percent = self.queue.pop(place)
        self.cylinder = self.cylinder_of(sector)
        self.serving = [now_ns + times[place] + self.transfer_ns(nr_sector), serial]

    def reach_ns(self, now_ns: int, command: Command) -> int:
        """Return how long it takes until a command's first sector is under the head."""
        _rung, _serial, sector, _nr, percent = command
        seek_ns = self.seek_ns(abs(self.cylinder_of(sector) - self.cylinder))
        place_ns = self.transfer_ns(sector % self.sectors()) % self.turn_ns
        rotation_ns = (place_ns - now_ns - seek_ns) % self.turn_ns
        return (seek_ns + rotation_ns) * percent // 100

    def seek_ns(self, distance: int) -> int:
        """Return the time to move the arm over so many cylinders."""
        if not distance:
            return 0
        arm = self.mechanics
        root = isqrt(3 * distance * 1_000_000 // self.cylinders)  # thousandths
        return min(arm.track_ns + (arm.average_ns - arm.track_ns) * root // 1000, arm.full_ns)

    def sectors(self) -> int:
        """Return the sectors of a track."""
        return self.mechanics.track_kib * 2

    def cylinder_of(self, sector: int) -> int:
        """Return the cylinder of a sector."""
        return min(sector // self.sectors(), self.cylinders - 1)

    def transfer_ns(self, nr_sector: int) -> int:
        """Return how long so many sectors take to pass under the head."""
        return nr_sector * self.turn_ns // self.sectors()

    def next_ns(self) -> int:
        """Return when the command under way is done, or NEVER."""
        return self.serving[0] if self.serving else NEVER

    def take(self) -> tuple[int, int]:
        """Take the request that is done: (time, serial); the next one begins."""
        done_ns, serial = self.serving
        self.serving = []
        self.free_ns = done_ns
        if self.queue:
            self.serve(done_ns)
        return done_ns, serial

    def clear(self) -> None:
        """Forget every request."""
        self.queue.clear()
        self.serving = []

    def pack(self) -> list[Any]:
        """Return the changing state."""
        return [[list(one) for one in self.queue], self.serving, self.cylinder, self.free_ns]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        queue, self.serving, self.cylinder, self.free_ns = data
        self.queue = [(a, b, c, d, e) for a, b, c, d, e in queue]
