"""Files that count what CPUs do: ``/proc/interrupts``, ``softirqs``, ``stat``, ``schedstat`` and others.

Formats are v5.4's.  Rows of interrupts that a box does not know (machine checks, TLB shootdowns …)
are left out.  Tasks that wait for IO in libaio or io_uring make no %iowait: that is no ``io_schedule()``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from emulator.irq_affinity import irq_disk, irq_number
from emulator.kernel.blk_queue import irq_names
from emulator.report.procfs.counts import CpuCounts
from emulator.report.procfs.view import NoFileError, View
from emulator.tracepoints import (
    SOFTIRQ_NAMES,
    TICK_SOFTIRQ,
    TICK_SYSTEM,
    TICK_USER,
)
from emulator.types import cpulist_format, cpulist_parse, cpumask_first

#: What user space counts time in: 10 ms.
USER_HZ_NS = 10_000_000

#: How wide interrupt numbers are.
PRECISION = 3

#: Interrupts of the CPUs themselves: name, how to count them, text.
CPU_INTERRUPTS: tuple[tuple[str, Callable[[CpuCounts], int], str], ...] = (
    ("LOC", lambda cpu: cpu.timer_interrupts, "Local timer interrupts"),
    ("RES", lambda cpu: cpu.reschedules, "Rescheduling interrupts"),
    ("CAL", lambda cpu: cpu.calls, "Function call interrupts"),
)


def interrupts(view: View) -> str:
    """Return ``/proc/interrupts``: one column per online CPU, one row per interrupt."""
    cpus = [view.cpus[cpu] for cpu in view.online]
    head = " " * (PRECISION + 8) + "".join(f"CPU{cpu:<8d}" for cpu in view.online)
    lines = [head]
    for irq in device_irqs(view):
        counts = "".join(f"{irq.count(cpu):10d} " for cpu in cpus)
        chip = f"{'PCI-MSI':>8s} {irq.hwirq:{PRECISION}d}-edge      {irq.name}"
        lines.append(f"{irq.number:{PRECISION}d}: {counts} {chip}")
    for name, count, text in CPU_INTERRUPTS:
        counts = "".join(f"{count(cpu):10d} " for cpu in cpus)
        lines.append(f"{name:>{PRECISION}s}: {counts}  {text}")
    lines += [f"{name:>{PRECISION}s}: {0:10d}" for name in ("ERR", "MIS")]
    return _text(lines)


@dataclass(frozen=True, slots=True)
class DeviceIrq:
    """One vector of a disk."""

    number: int
    name: str
    hwirq: int  #: vector of the device: NVMe's and virtio's first is not for IO
    mask: int  #: CPUs that it may interrupt
    managed: bool  #: it is shut down with the last of them

    def count(self, cpu: CpuCounts) -> int:
        """Return how often it has interrupted a CPU."""
        return cpu.irqs.get((self.number, self.name), 0)


def device_irqs(view: View) -> list[DeviceIrq]:
    """Return the interrupts of all disks, also those that have not come yet."""
    found: list[DeviceIrq] = []
    for index, disk in enumerate(view.spec.disks):
        first = int(disk.driver in ("nvme", "virtio_blk"))
        for vector, name in enumerate(irq_names(disk)):
            number = irq_number(index, vector)
            found.append(
                DeviceIrq(number, name, first + vector, _mask_of(view, number), disk.managed)
            )
    return found


# What was written last, else what the box says; a mask whose CPUs all are offline was refused.
def _mask_of(view: View, number: int) -> int:
    index, vector = irq_disk(number)
    mask = view.spec.disks[index].vectors[vector]
    for command in sorted(set(view.counter.commands)):
        match command.text.split():
            case ["irq", which, "affinity", cpulist] if int(which) == number:
                written = cpulist_parse(cpulist)
                mask = written if written & view.online_mask else mask
    return mask


def smp_affinity_list(view: View, irq: int) -> str:
    """Return ``/proc/irq/N/smp_affinity_list``: the CPUs that an interrupt may come to."""
    return cpulist_format(_device_irq(view, irq).mask) + "\n"


def effective_affinity_list(view: View, irq: int) -> str:
    """Return ``/proc/irq/N/effective_affinity_list``: the one it comes to, none if it is shut down."""
    found = _device_irq(view, irq)
    usable = found.mask & view.online_mask or (0 if found.managed else view.online_mask)
    return (str(cpumask_first(usable)) if usable else "") + "\n"


def _device_irq(view: View, number: int) -> DeviceIrq:
    irqs = device_irqs(view)
    for irq in irqs:
        if irq.number == number:
            return irq
    known = ", ".join(f"{irq.number} ({irq.name})" for irq in irqs) or "none of a disk"
    raise NoFileError(f"no interrupt {number}; there are {known}")


def softirqs(view: View) -> str:
    """Return ``/proc/softirqs``: how often each vector was served, by possible CPU."""
    lines = [" " * 20 + "".join(f"CPU{cpu:<8d}" for cpu in range(view.nr_cpus))]
    for vec, name in enumerate(SOFTIRQ_NAMES):
        lines.append(f"{name:>12s}:" + "".join(f" {cpu.softirqs[vec]:10d}" for cpu in view.cpus))
    return _text(lines)


def cpustat_ns(view: View, cpu: int) -> list[int]:
    """Return user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice in ns."""
    counts, tick_ns = view.cpus[cpu], view.tick_ns
    nice = counts.nice_ticks
    return [
        (counts.ticks[TICK_USER] - nice) * tick_ns,
        nice * tick_ns,
        counts.ticks[TICK_SYSTEM] * tick_ns,
        counts.idle_until(view.now_ns),
        counts.iowait_until(view.now_ns),
        0,
        counts.ticks[TICK_SOFTIRQ] * tick_ns,
        0,
        0,
        0,
    ]


def stat(view: View) -> str:
    """Return ``/proc/stat``: where the time went, by tick, and numbers of events."""
    rows = [cpustat_ns(view, cpu) for cpu in range(view.nr_cpus)]
    total = [sum(column) for column in zip(*rows, strict=True)]
    lines = ["cpu  " + _clock_ticks(total)]
    lines += [f"cpu{cpu} {_clock_ticks(rows[cpu])}" for cpu in view.online]
    vectors = [sum(cpu.softirqs[vec] for cpu in view.cpus) for vec in range(len(SOFTIRQ_NAMES))]
    counter = view.counter
    lines += [
        f"intr {_intr(view)}",
        f"ctxt {sum(cpu.switches for cpu in view.cpus)}",
        "btime 0",
        f"processes {len(view.pids)}",
        f"procs_running {counter.nr_running}",
        f"procs_blocked {sum(cpu.nr_iowait for cpu in view.cpus)}",
        f"softirq {sum(vectors)} " + " ".join(map(str, vectors)),
    ]
    return _text(lines)


def _clock_ticks(times_ns: list[int]) -> str:
    return " ".join(str(ns // USER_HZ_NS) for ns in times_ns)


# All interrupts, then one number per interrupt line.
def _intr(view: View) -> str:
    lines: dict[int, int] = {}
    for cpu in view.cpus:
        for (irq, _name), count in cpu.irqs.items():
            lines[irq] = lines.get(irq, 0) + count
    own = sum(count(cpu) for cpu in view.cpus for _name, count, _text_ in CPU_INTERRUPTS)
    numbers = [own + sum(lines.values())]
    numbers += [lines.get(irq, 0) for irq in range(max(lines, default=-1) + 1)]
    return " ".join(map(str, numbers))


def schedstat(view: View) -> str:
    """Return ``/proc/schedstat``, version 15, without the lines of the domains.

    A switch counts as a call of schedule(): calls that found nothing else are not recorded.
    """
    lines = ["version 15", f"timestamp {view.jiffies}"]
    for number in view.online:
        cpu = view.cpus[number]
        wakeups = f"{cpu.switches} {cpu.switches_to_idle} {cpu.ttwu} {cpu.ttwu_local}"
        lines.append(f"cpu{number} 0 0 {wakeups} {cpu.run_ns} {cpu.delay_ns} {cpu.slices}")
    return _text(lines)


def loadavg(view: View) -> str:
    """Return ``/proc/loadavg``; the first sample is taken 5 s after boot."""
    averages = " ".join(f"{load:.2f}" for load in view.counter.load_averages)
    last = max(view.pids, default=0)
    return f"{averages} {view.counter.nr_running}/{len(view.pids)} {last}\n"


def pressure_cpu(view: View) -> str:
    """Return ``/proc/pressure/cpu``: the share of time in which a task waited for a CPU."""
    return _text(view.counter.pressure.lines(view.now_ns, view.spec.kernel.version))


def uptime(view: View) -> str:
    """Return ``/proc/uptime``: seconds since boot, and idle seconds of all CPUs together."""
    idle_ns = sum(cpu.idle_until(view.now_ns) for cpu in view.cpus)
    return f"{view.now_ns / 1e9:.2f} {idle_ns / 1e9:.2f}\n"


def _text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)
