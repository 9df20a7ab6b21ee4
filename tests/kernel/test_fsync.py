"""fsync() against io-and-workqueue.md G.7."""

from __future__ import annotations

from emulator.types import OP_FSYNC, OP_RW, WRITE
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, scsi_debug

BEGIN = 1 * MS


def test_fsync_of_an_overwritten_file_has_nothing_to_flush_without_a_cache() -> None:
    """Nothing is logged and no cache is volatile: it costs its system call, and nobody sleeps."""

    def steps() -> Steps:
        yield (OP_RW, WRITE, 0, 0, 4096)
        yield (OP_FSYNC, 0, 0)
        yield (OP_FSYNC, 0, 1)

    box = Box(
        Job(steps, name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(syscall_ns=200, fsync_ns=500),
        sysctls=QUIET,
    ).run(3 * MS)
    written, first, second = (t for t, _ in box.script().calls[1:4])
    assert (first - written, second - first) == (700, 700)
    assert [result for _, result in box.script().calls[2:4]] == [0, 0]
    assert len(box.times("block_rq_issue")) == 1
