"""What ``/proc`` adds to a worker's name (``wq_worker_comm()``): the workqueue that it serves."""

from collections.abc import Iterator

from emulator.report.procfs.view import View
from emulator.trace.reader import COLUMN_A, COLUMN_C, COLUMN_TIME
from emulator.tracepoints import (
    WORKQUEUE_EXECUTE_END,
    WORKQUEUE_EXECUTE_START,
    WORKQUEUE_QUEUE_WORK,
)


def worker_comm(view: View, pid: int) -> str:
    """Return a task's name, completed if it is a worker.

    A worker's has ``+`` and the workqueue while it executes an item, and ``-`` and the last one's
    afterwards.
    """
    comm = view.comm(pid)
    if not comm.startswith("kworker/"):
        return comm
    work, sign, _time_ns = max(_works(view, pid), key=lambda one: one[2], default=(0, "", 0))
    if not sign:
        return comm
    for reader in view.readers:
        for piece in reader.pieces():
            indices = piece.select((WORKQUEUE_QUEUE_WORK,))
            names = piece.gather(COLUMN_C, indices)
            for one, name in zip(piece.gather(COLUMN_A, indices), names, strict=True):
                if one == work:
                    return comm + sign + reader.names[name]
    return comm


# The last start or end of an item by a worker on each CPU: (work, sign, time).
def _works(view: View, pid: int) -> Iterator[tuple[int, str, int]]:
    for reader in view.readers:
        last = (0, "", -1)
        for piece in reader.pieces():
            indices = piece.select((WORKQUEUE_EXECUTE_START, WORKQUEUE_EXECUTE_END))
            pids = piece.gather_pids(indices)
            mine = [index for index, one in zip(indices, pids, strict=True) if one == pid]
            times = piece.gather(COLUMN_TIME, mine)
            while mine and times[-1] >= view.now_ns:
                mine.pop()
                times.pop()
            if mine:
                started = piece.events[mine[-1]] == WORKQUEUE_EXECUTE_START
                work = piece.gather(COLUMN_A, mine[-1:])[0]
                last = (work, "+" if started else "-", times[-1])
        if last[2] >= 0:
            yield last
