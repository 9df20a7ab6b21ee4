"""Mail for tasks: news of their IOs, which follow them.

Mail for a task (an IO of it is complete) goes to the CPU where its sender believes it to be, stamped
with the residence believed in.  Here it finds the task, or finds that it has left (it is forwarded
along the way that the task took), or that it has not arrived yet (it waits, and is delivered right
after the task).  While the task runs, its mail stays in the mailbox until something looks: the ring
is read by ``io_getevents()``, the inode's count by an unaligned write.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from emulator.kernel import (
    iomap,
    smp,
)
from emulator.types import Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def drain(cpu: Cpu) -> None:
    """Take all mail that has arrived by now out of the mailbox."""
    while cpu.mail and cpu.mail[0][0] <= cpu.now:
        cpu.receive(heapq.heappop(cpu.mail))


def handle_dio_done(cpu: Cpu, message: Message) -> None:
    """An IO is complete whose task is, was, or will be here."""
    args = message[5]
    pid, moves = args[0], args[1]
    owner = cpu.tasks.get(pid)
    if owner is not None:
        if smp.waker_spins(cpu, owner, args[5]):
            cpu.deferred.append(message)
            return
        owner.run.remote_ios -= 1
        assert owner.run.remote_ios >= 0, cpu.story(f"unexpected mail {message}")
        if args[3] < 0:
            iomap.sync_done(cpu, owner, (args[5], args[6]))
        else:
            iomap.dio_done_mail(cpu, owner, args)
        return
    send_on(cpu, message, pid, moves)


def send_on(cpu: Cpu, message: Message, pid: int, moves: int) -> None:
    """Forward mail of a task that has left, or keep it for one that has not come yet."""
    where = cpu.forward.get(pid)
    if where is not None and where[0] > moves:
        cpu.unexpect(pid)
        cpu.send_mail(where[1], message[4], (pid, where[0], *message[5][2:]), message[0])
    else:
        cpu.held.setdefault(pid, []).append(message)


def deliver_held(cpu: Cpu, pid: int) -> None:
    """Deliver what waited for a task that has just arrived."""
    for message in cpu.held.pop(pid, ()):
        cpu.receive(message)
