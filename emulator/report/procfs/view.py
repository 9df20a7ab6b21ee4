"""A box at a moment, as the functions of its files see it: what it is made of and what it has counted."""

from collections.abc import Sequence
from functools import cached_property

from emulator.irq_affinity import irq_disk
from emulator.kernel.fair_tunables import (
    SYSCTLS,
    sched_proc_update_handler,
    tunables,
    update_sysctl,
)
from emulator.kernel.kthread import FIRST_USER_PID
from emulator.kernel.sched import Tunables
from emulator.report.procfs.counts import Counter, CpuCounts, TaskCounts
from emulator.report.procfs.disks import DiskCounter, DiskCounts
from emulator.trace.reader import RingReader
from emulator.types import BoxSpec, cpumask_first

#: Disks are numbered as SCSI disks are, whatever their driver.
SD_MAJOR = 8
SD_MINORS = 16
#: Priorities of kernel threads that are not fair, by the first part of their names.
BOOT_PRIOS = {"migration": 0, "irq": 49}


class NoFileError(Exception):
    """A box has no such file; the text says what is there instead."""


class View:
    """A box as of ``now_ns``; nothing is counted before a file asks."""

    def __init__(self, spec: BoxSpec, readers: Sequence[RingReader], now_ns: int) -> None:
        self.spec = spec
        self.readers = readers
        self.now_ns = now_ns

    @cached_property
    def counter(self) -> Counter:
        """Counters of CPUs and tasks."""
        counter = Counter(self.readers, self.spec.machine.hz)
        counter.advance(self.now_ns)
        return counter

    @cached_property
    def disk_counter(self) -> DiskCounter:
        """Counters of disks."""
        counter = DiskCounter(self.readers, self.spec.kernel.rules, self.spec.machine.hz)
        counter.advance(self.now_ns)
        return counter

    def move_on(self, now_ns: int) -> None:
        """Be at a later time; what was counted goes on from where it is."""
        self.now_ns = now_ns
        self.counter.advance(now_ns)
        self.disk_counter.advance(now_ns)
        for name in ("pids", "tunables"):
            self.__dict__.pop(name, None)

    @property
    def nr_cpus(self) -> int:
        """How many CPUs are possible; all are present."""
        return self.spec.machine.nr_cpus

    @property
    def cpus(self) -> list[CpuCounts]:
        """Counters by CPU."""
        return self.counter.cpus

    @property
    def online(self) -> list[int]:
        """The CPUs that are online."""
        return [cpu for cpu, counts in enumerate(self.cpus) if counts.online]

    @property
    def online_mask(self) -> int:
        """The same as a mask."""
        return sum(1 << cpu for cpu in self.online)

    @property
    def tick_ns(self) -> int:
        """How long a jiffy is."""
        return 1_000_000_000 // self.spec.machine.hz

    @property
    def jiffies(self) -> int:
        """Jiffies since boot."""
        return self.now_ns // self.tick_ns

    # -- Disks ------------------------------------------------------------------------------------

    def disk_index(self, name: str) -> int:
        """Return which disk has a name; raise NoFileError."""
        names = [disk.name for disk in self.spec.disks]
        if name not in names:
            raise NoFileError(f"no disk {name}; there are {', '.join(names) or 'none'}")
        return names.index(name)

    def disk_counts(self, index: int) -> DiskCounts:
        """Return the counters of a disk."""
        return self.disk_counter.disks[disk_dev(index)]

    # -- Tasks ------------------------------------------------------------------------------------

    @cached_property
    def pids(self) -> list[int]:
        """The tasks that exist, ascending."""
        counter = self.counter
        return [
            pid
            for pid in sorted(counter.comms)
            if pid
            and (pid < FIRST_USER_PID or counter.tasks[pid].has_begun)
            and counter.tasks[pid].state != "X"
        ]

    def task(self, pid: int) -> TaskCounts:
        """Return the counters of a task; raise NoFileError."""
        if pid not in self.pids:
            own = [one for one in self.pids if one >= FIRST_USER_PID][:8]
            known = ", ".join(f"{one} ({self.comm(one)})" for one in own) or "none of its workloads"
            raise NoFileError(f"no task {pid}; there are {known}, and kernel threads")
        task = self.counter.tasks[pid]
        if not task.has_begun:  # it has slept since boot
            task.cpu = max(self.bound_cpu(pid), 0)
            task.state = "I" if self.comm(pid).startswith("kworker") else "S"
            task.prio = BOOT_PRIOS.get(self.comm(pid).partition("/")[0], 120)
        return task

    def comm(self, pid: int) -> str:
        """Return the name of a task."""
        return self.counter.comms.get(pid, "<...>")

    def is_kthread(self, pid: int) -> bool:
        """Whether a task is a kernel thread."""
        workload = self.workload(pid)
        return self.spec.workloads[workload].kthread if workload >= 0 else True

    def workload(self, pid: int) -> int:
        """Return which workload a task is of, -1 for the kernel's own."""
        index = (pid - FIRST_USER_PID) // 100
        return index if 0 <= index < len(self.spec.workloads) else -1

    def bound_cpu(self, pid: int) -> int:
        """Return the CPU of a kernel thread that exists once per CPU, -1 for other tasks."""
        kind, _, rest = self.comm(pid).partition("/")
        if kind == "irq":
            return self.irq_cpu(int(rest.partition("-")[0]))
        number = rest.partition(":")[0]
        return int(number) if number.isdigit() else -1

    def irq_cpu(self, irq: int) -> int:
        """Return the CPU that a disk's vector interrupts first, and on which its thread is."""
        index, vector = irq_disk(irq)
        return cpumask_first(self.spec.disks[index].vectors[vector])

    def cpus_allowed(self, pid: int) -> int:
        """Return the CPUs on which a task may run, as it was started."""
        bound, workload = self.bound_cpu(pid), self.workload(pid)
        if workload >= 0:
            return self.spec.workloads[workload].cpus_allowed
        return 1 << bound if bound >= 0 else (1 << self.nr_cpus) - 1

    # -- Tunables ---------------------------------------------------------------------------------

    @cached_property
    def tunables(self) -> Tunables:
        """The fair class's tunables after all that was written to them."""
        kernel = self.spec.kernel
        tun = tunables(kernel, self.nr_cpus)
        if len(self.online) != self.nr_cpus:
            update_sysctl(tun, len(self.online))
        # Every CPU records the command; writing a value twice changes nothing.
        for command in sorted(set(self.counter.commands)):
            words = command.text.split()
            name, _, value = words[-1].removeprefix("kernel.").partition("=")
            if words[0] == "sysctl" and name in SYSCTLS:
                try:
                    by_scaling = kernel.rules.nr_latency_by_scaling
                    sched_proc_update_handler(tun, name, int(value), by_scaling)
                except ValueError:
                    continue  # refused then too
        return tun


def disk_dev(index: int) -> int:
    """Return the number of a disk as records have it."""
    return SD_MAJOR << 20 | SD_MINORS * index


def first_of(mask: int) -> int:
    """Return the lowest CPU of a mask, 0 of none."""
    return cpumask_first(mask) if mask else 0
