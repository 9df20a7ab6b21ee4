"""The counters that sysstat's tools read from ``/proc``, at moments, and what changes between them.

Unlike the tools, which see CPU time in hundredths of a second, this reads it in ns: intervals may be
as short as some ticks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from emulator.report.procfs.cpu_files import CPU_INTERRUPTS, cpustat_ns, device_irqs
from emulator.report.procfs.disk_files import disk_numbers
from emulator.report.procfs.view import View
from emulator.types import NSEC_PER_SEC

#: Numbers of a disk: reads, writes, in flight and times, discards, flushes.
DISK_NUMBERS = 17


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters at one moment."""

    time_ns: int
    online: list[int]
    cpus: list[list[int]]  #: per CPU the times of ``/proc/stat``, ns
    disks: list[list[int]]  #: per disk the numbers of ``/proc/diskstats``
    interrupts: list[dict[str, int]]  #: per CPU by number, or name for those of CPUs
    softirqs: list[list[int]]  #: per CPU by vector


class Span(NamedTuple):
    """What is between two samples."""

    first: Sample
    last: Sample

    @property
    def seconds(self) -> float:
        """Return how long it is."""
        return (self.last.time_ns - self.first.time_ns) / NSEC_PER_SEC

    @property
    def online(self) -> list[int]:
        """Return the CPUs that were online at its end."""
        return self.last.online

    def cpu(self, cpus: Iterable[int]) -> list[int]:
        """Return the times of some CPUs together, ns."""
        changes = [change(self.first.cpus[cpu], self.last.cpus[cpu]) for cpu in cpus]
        return [sum(column) for column in zip(*changes, strict=True)]

    def disk(self, index: int) -> list[int]:
        """Return what a disk's numbers have grown by."""
        return change(self.first.disks[index], self.last.disks[index])

    def interrupts(self, cpu: int) -> dict[str, float]:
        """Return the interrupts of a CPU per second."""
        first, last = self.first.interrupts[cpu], self.last.interrupts[cpu]
        return {name: (last[name] - first[name]) / self.seconds for name in last}

    def softirqs(self, cpu: int) -> list[float]:
        """Return the softirqs of a CPU per second."""
        return [
            one / self.seconds for one in change(self.first.softirqs[cpu], self.last.softirqs[cpu])
        ]


def change(first: list[int], last: list[int]) -> list[int]:
    """Return by how much counters have grown."""
    return [late - early for early, late in zip(first, last, strict=True)]


def sample(view: View) -> Sample:
    """Return the counters of a box as of the view's time."""
    irqs = device_irqs(view)
    return Sample(
        view.now_ns,
        view.online,
        [cpustat_ns(view, cpu) for cpu in range(view.nr_cpus)],
        [
            [*disk_numbers(view, index), 0, 0][:DISK_NUMBERS]
            for index in range(len(view.spec.disks))
        ],
        [
            {str(irq.number): irq.count(cpu) for irq in irqs}
            | {name: count(cpu) for name, count, _text in CPU_INTERRUPTS}
            for cpu in view.cpus
        ],
        [list(cpu.softirqs) for cpu in view.cpus],
    )


def spans(view: View, moments: Iterable[int]) -> Iterator[Span]:
    """Yield what is between moments, which ascend; the view goes along with them."""
    first: Sample | None = None
    for moment in moments:
        view.move_on(moment)
        last = sample(view)
        if first is not None:
            yield Span(first, last)
        first = last
