"""Workloads of a running box: added, told to end; what a box must have been built with for them.

Theory of operation
-------------------
``workload add`` goes to every CPU, at one time and in one order, so that each numbers the new tasks
alike; the CPU on which a task is forked starts it then, or as much later as the workload says.

``workload stop NAME`` goes to every CPU.  Each tells those of the tasks that are there; one that is
under way is told where it arrives.  An fio job ends as fio does on SIGTERM: it starts no IO, waits for
what is under way and exits.  Any other program exits at its next operation.

Departures from the kernel: a task is told in its program, not by a signal, so a sleep or a read of a pipe
is not cut short.  The files of added workloads lie behind those of the box, also where its log is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.added import ADD, shown, with_added, workloads_of
from emulator.kernel import command, kthread, pipe, wq_table, xfs_file
from emulator.kernel.sched import PF_KTHREAD
from emulator.types import COORDINATOR, BoxSpec, WorkloadSpec

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: First word of commands that are about workloads.
WORKLOAD = "workload"

#: The box's own words, between CPUs: ["end_task", pid].
END_TASK = "end_task"

#: A box has at most so many workloads: their pids end where those of later tasks begin.
WORKLOADS_MAX = (kthread.FIRST_LATE_PID - kthread.FIRST_USER_PID) // 100


def problem(spec: BoxSpec, workloads: tuple[WorkloadSpec, ...]) -> str:
    """Return why a box that runs cannot take these workloads, "" if it can."""
    grown = with_added(spec, workloads)
    if len(grown.workloads) > WORKLOADS_MAX:
        return f"a box has at most {WORKLOADS_MAX} workloads"
    if any(one.kthread for one in workloads):
        return "kernel threads are there from the start"
    for what, facts in _facts(spec).items():
        if _facts(grown)[what] != facts:
            return f"this box was built without {what}; say it in the box file"
    if any(not one.params.get("direct", 1) or one.program == "writer" for one in workloads):
        return "programs that write through the page cache are there from the start"
    return ""


def _facts(spec: BoxSpec) -> dict[str, Any]:
    # What nodes are built by: an added workload may not change it.
    return {
        "writes through the page cache": spec.writes_buffered,
        "real-time tasks": spec.realtime,
        "modules that queue work": any(one.program == "works" for one in spec.workloads),
        "files that are not written in place, as with overwrite=1": any(
            not file.plain for file in xfs_file.file_table(spec).values()
        ),
        "these unbound workqueues": wq_table.in_use(spec, wq_table.workqueues(spec)),
    }


def handle(cpu: Cpu, words: list[Any]) -> None:
    """Carry out ``workload add`` or ``workload stop``, and answer."""
    cpu.cause = cpu.emit(tp.BOX_COMMAND, cpu.sink.intern(shown(words)))
    text = str(words[2])
    cpu.answer(words, add(cpu, text) if words[:2] == ADD else stop(cpu, text))


def grow(cpu: Cpu, text: str) -> None:
    """Let this CPU know more workloads."""
    cpu.added.append(text)
    cpu.spec = with_added(cpu.spec, workloads_of(text))
    cpu.programs.know(cpu.spec)
    for file, facts in xfs_file.file_table(cpu.spec).items():
        cpu.files.setdefault(file, facts)
    cpu.pipes = pipe.pipe_table(cpu.spec, kthread.FIRST_USER_PID)


def add(cpu: Cpu, text: str) -> str:
    """Know new workloads and start those of their tasks that begin here; return what was started."""
    first = len(cpu.spec.workloads)
    grow(cpu, text)
    started: list[str] = []
    for index, workload in enumerate(cpu.spec.workloads[first:], first):
        if not workload.pinned_to and cpu.node_id != workload.home:
            continue
        of = [f"of:{workload.pinned_to}"] if workload.pinned_to else []
        for copy in range(workload.count):
            pid = kthread.FIRST_USER_PID + 100 * index + copy
            words = ["spawn", index, *of, pid]
            # Sequence numbers of what comes from outside before the run are below those of commands.
            when = cpu.now + max(1, workload.start_ns)
            cpu.deliver((when, COORDINATOR, index, cpu.node_id, messages.COMMAND, (words,)))
            if not workload.pinned_to or cpu.node_id == 0:
                started.append(f"{workload.name}-{pid}")
    return f"added {', '.join(started)}" if started else ""


def stop(cpu: Cpu, name: str) -> str:
    """Tell the tasks of a name that are here, or have just left, to end; return how many."""
    told = 0
    for index, workload in enumerate(cpu.spec.workloads):
        if workload.name == name:
            first = kthread.FIRST_USER_PID + 100 * index
            told += sum(end_task(cpu, pid) for pid in range(first, first + workload.count))
    return f"{told} told to end on CPU {cpu.node_id}" if told else ""


def end_task(cpu: Cpu, pid: int) -> bool:
    """Tell a task to end, here or where it is going; return whether it was here or on its way."""
    p = cpu.tasks.get(pid)
    if p is not None:
        if p.state == tp.TASK_DEAD or p.flags & PF_KTHREAD:
            return False
        p.run.program = cpu.programs.ended(p.run.program)
        return True
    arrival_ns = cpu.arrivals.get(pid, -1)
    if pid not in cpu.forward or arrival_ns < cpu.now:
        return False
    command.send_command(cpu, cpu.forward[pid][1], ([END_TASK, pid],), arrival_ns + 1)
    return True
