"""The end of buffered writes on XFS: ``fs/xfs/xfs_aops.c``, v5.4 (E.4).

Theory of operation
-------------------
A bio of the flusher carries one run of pages, its *ioend*.  Pages that were written before and lie
within the size on disk are clean where the bio ends, in the softirq.  An ioend that needs a
transaction (unwritten extents are converted, or the file on disk becomes longer) is added to its
inode's list; the first one queues the inode's one work item, ``xfs_end_io()`` on the bound
``xfs-conv`` of that CPU.  The work takes the list, sorts it, merges neighbours of one kind, and runs
one transaction for each that is left, after which its pages are clean.

Departures from the kernel: the list of an inode belongs to the item that is queued for it, so ioends
that end on two CPUs at once make two items where the kernel makes one; reflinked extents (COW) do not
occur; log space for a new size is reserved when the worker logs it, as from 5.13 on, not when the bio
is submitted.  A raw block device has no ioends: its pages are always clean at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emulator.kernel import (
    buffered,
    dio_completion,
    frames,
    workqueue,
    wq_pool,
    wq_table,
    xfs_log,
)
from emulator.kernel.inode import PAGE_SHIFT
from emulator.kernel.request import IOEND_OVERWRITE, Request

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: An ioend: [kind, first page, pages, error].
Ioend = list[int]


def merge_ioends(ioends: list[Ioend]) -> list[Ioend]:
    """``xfs_end_io()``: sort a list of ioends by offset and merge neighbours of one kind and fate."""
    merged: list[Ioend] = []
    for kind, first, nr, error in sorted(ioends, key=lambda ioend: ioend[1]):
        last = merged[-1] if merged else [-1, 0, 0, 0]
        if (last[0], last[3]) == (kind, error) and last[1] + last[2] == first:
            last[2] += nr
        else:
            merged.append([kind, first, nr, error])
    return merged


def xfs_end_bio(cpu: Cpu, rq: Request) -> bool:
    """A bio of the flusher ends; return whether a worker is to be woken.

    The caller has set the frame in which it goes on after this: clean pages take their time in it.
    """
    facts = cpu.files[rq.file]
    first = ((rq.sector << 9) - facts.start) >> PAGE_SHIFT
    ioend = [rq.iocb, first, rq.nr_sector >> (PAGE_SHIFT - 9), int(rq.error != 0)]
    if facts.fs == "none" or rq.iocb == IOEND_OVERWRITE:
        ns = ioend[2] * cpu.costs.end_page_ns
        if cpu.f_kind == frames.BLOCK_QUEUED:
            cpu.start(frames.BLOCK_QUEUED, ns)
        else:
            dio_completion.charge(cpu, ns)
        buffered.end_ioend(cpu, rq.file, ioend)
        return False
    for item in waiting_items(cpu):
        if item[3][0] == rq.file:
            item[3][1].append(ioend)
            return False
    work = IOEND_WORK + rq.file
    arg = [rq.file, [ioend]]
    return workqueue.queue_work(cpu, wq_table.WQ_XFS_CONV, wq_pool.FN_XFS_IOENDS, arg, work)


#: Identity of the work that ends an inode's ioends.
IOEND_WORK = 1 << 59


def waiting_items(cpu: Cpu) -> Iterator[list[Any]]:
    """Yield the items of ``xfs-conv`` that this CPU has queued and no worker has begun."""
    pool = cpu.pools[0]
    for items in (pool.worklist, pool.delayed.get(wq_table.WQ_XFS_CONV, ())):
        for item in items:
            if item[1] == wq_pool.FN_XFS_IOENDS:
                yield item


def pages_of_item(item: list[Any]) -> int:
    """Return how many pages a work item is still to end."""
    if item[1] != wq_pool.FN_XFS_IOENDS:
        return 0
    return sum(ioend[2] for ioend in item[3][1])


def xfs_end_io(cpu: Cpu, arg: list[Any]) -> None:
    """The work takes its list, and begins with the first ioend."""
    arg[1][:] = merge_ioends(arg[1])
    next_ioend(cpu, arg)


def next_ioend(cpu: Cpu, arg: list[Any]) -> None:
    """The transaction of the next ioend and the end of its pages, or the work's end."""
    costs = cpu.costs
    if arg[1]:
        _kind, _first, nr, error = arg[1][0]
        ns = nr * costs.end_page_ns
        if error:
            cpu.start(frames.WORK_BODY, ns)  # nothing is converted, no size logged
            return
        xfs_log.transaction(cpu, cpu.rq.curr, frames.WORK_BODY, ns)
    else:
        cpu.start(frames.WORK_TAIL, costs.dio_tail_ns)


def xfs_end_ioend(cpu: Cpu, arg: list[Any]) -> None:
    """One ioend's transaction is committed: its pages are clean."""
    buffered.end_ioend(cpu, arg[0], arg[1].pop(0))
    next_ioend(cpu, arg)
