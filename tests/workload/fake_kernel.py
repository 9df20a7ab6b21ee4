"""The smallest kernel that a program can run on: one task, one device with a fixed service time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator.types import (
    OP_EXIT,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    Costs,
    Op,
    Program,
)

EAGAIN = 11


def costs(**named: Any) -> Costs:
    """Return costs that are all zero but those named."""
    values: dict[str, Any] = dict.fromkeys(Costs.__dataclass_fields__, 0)
    values["verify_ps_per_byte"] = {}
    return Costs(**(values | named))


class FakeKernel:
    """Runs one program; IOs finish ``device_ns`` after submission, and each exactly once."""

    def __init__(
        self,
        program: Program,
        device_ns: int = 0,
        submit_ns: int = 0,
        credits_max: int = 1 << 30,
        reap_most: Callable[[int], int] = lambda ready: ready,
        error_at: int = -1,
        fsync_ns: int = 0,
    ) -> None:
        self.program = program
        self.device_ns = device_ns
        self.submit_ns = submit_ns
        self.credits_max = credits_max
        self.reap_most = reap_most  # of so many finished events, how many one call returns
        self.error_at = error_at  # the number of the IO that fails
        self.fsync_ns = fsync_ns
        self.now_ns = 0
        self.result: Any = None
        self.in_device: list[tuple[int, int, int]] = []  # (finish, data, length), by finish
        self.outstanding: dict[int, int] = {}
        self.depth_max = 0
        self.log: list[tuple[int, Op]] = []  # (time of the call, operation)
        self.iocbs: list[tuple[int, ...]] = []  # everything submitted, in order
        self.exited = False

    def run(self, operations: int) -> FakeKernel:
        """Run up to so many operations, or until the program exits."""
        for _ in range(operations):
            if self.exited:
                break
            self.step()
        return self

    def step(self) -> None:
        """Ask for one operation and complete it."""
        op = self.program.next(self.now_ns, self.result)
        self.log.append((self.now_ns, op))
        self.result = 0
        match op[0]:
            case 0:
                self.now_ns += op[1]
            case 1:
                self.now_ns = max(self.now_ns, op[1])
            case 2 | 18:
                self.result = self._io_submit(op[1])
            case 3 | 19:
                self.result = self._io_getevents(op[1], op[2])
            case 4:
                self.iocbs.append((0, *op[1:]))
                self.now_ns += self.device_ns
            case 22:
                self.iocbs.append((0, 1, *op[1:]))
                self.now_ns += self.submit_ns
                self.result = op[3]
            case 6:
                self.exited = True
            case 17:
                self.now_ns += self.fsync_ns
            case 11 | 12 | 13:
                pass
            case _:
                raise AssertionError(op)

    def _io_submit(self, iocbs: list[tuple[int, ...]]) -> int:
        assert iocbs
        taken = 0
        for data, rw, file, offset, length in iocbs:
            if len(self.outstanding) >= self.credits_max:
                return taken or -EAGAIN
            self.now_ns += self.submit_ns
            assert data not in self.outstanding, "a unit was submitted twice"
            self.outstanding[data] = offset
            self.depth_max = max(self.depth_max, len(self.outstanding))
            res = -5 if len(self.iocbs) == self.error_at else length
            self.in_device.append((self.now_ns + self.device_ns, data, res))
            self.iocbs.append((data, rw, file, offset, length))
            taken += 1
        return taken

    def ring(self) -> int:
        """Return the number of finished events."""
        return sum(finish <= self.now_ns for finish, _, _ in self.in_device)

    def _io_getevents(self, min_nr: int, nr: int) -> list[tuple[int, int]]:
        assert 0 <= min_nr <= nr
        assert min_nr <= len(self.in_device), "the program would sleep for ever"
        if min_nr:
            self.now_ns = max(self.now_ns, self.in_device[min_nr - 1][0])
        count = max(min_nr, min(nr, self.reap_most(self.ring())))
        events = [(data, res) for _, data, res in self.in_device[:count]]
        del self.in_device[:count]
        for data, _ in events:
            del self.outstanding[data]
        return events

    def calls(self, *codes: int) -> list[tuple[int, Op]]:
        """Return the logged operations of these codes."""
        return [(time, op) for time, op in self.log if op[0] in codes]


__all__ = [
    "EAGAIN",
    "OP_EXIT",
    "OP_IO_GETEVENTS",
    "OP_IO_SUBMIT",
    "OP_RUN",
    "OP_RW",
    "OP_SLEEP",
    "FakeKernel",
    "costs",
]
