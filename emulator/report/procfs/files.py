"""The registry of a box's files: a path, the function that makes it, and what it tells.

Theory of operation
-------------------
A path may hold words in braces, which its function gets as arguments: ``{pid}``, ``{irq}``,
``{cpu}``, ``{hctx}``, ``{node}`` are numbers, ``{disk}`` and ``{name}`` names.  :func:`read_file` finds the function whose path
matches; :func:`list_files` says which paths there are, with the numbers that there are left open.
A new file is one function and one line in :data:`FILES`.
"""

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from emulator.report.procfs import (
    cpu_files,
    disk_files,
    mem_files,
    sys_files,
    task_files,
    wq_files,
)
from emulator.report.procfs.view import NoFileError, View

_WORDS = {
    "irq": r"\d+",
    "pid": r"\d+",
    "cpu": r"\d+",
    "hctx": r"\d+",
    "node": r"\d+",
    "disk": r"[^/]+",
    "name": r"[^/]+",
}


#: What is said where nothing more is known; other texts name what there is instead.
NO_SUCH_FILE = "no such file"


@dataclass(frozen=True, slots=True)
class File:
    """One path and its function; ``when`` says which boxes have it, ``names`` what {name} may be."""

    path: str
    read: Callable[..., str]
    about: str
    names: Callable[[View], list[str]] | None = None
    when: Callable[[View], bool] | None = None

    def match(self, path: str) -> dict[str, Any] | None:
        """Return the arguments that a path stands for, None if it is another file's."""
        found = _pattern(self.path).fullmatch(path)
        if found is None:
            return None
        return {
            word: int(text) if _WORDS[word] == r"\d+" else text
            for word, text in found.groupdict().items()
        }

    def exists(self, view: View) -> bool:
        """Whether a box has it."""
        return self.when is None or self.when(view)


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    text = "".join(
        f"(?P<{part}>{_WORDS[part]})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )
    return re.compile(text)


def _debugfs(view: View) -> bool:
    return view.spec.kernel.rules.sched_debugfs


def _no_debugfs(view: View) -> bool:
    return not view.spec.kernel.rules.sched_debugfs


def _has_irqs(view: View) -> bool:
    return bool(cpu_files.device_irqs(view))


_CPU = "/sys/devices/system/cpu"

FILES: tuple[File, ...] = (
    File("/proc/interrupts", cpu_files.interrupts, "interrupts by CPU"),
    File(
        "/proc/irq/{irq}/smp_affinity_list",
        cpu_files.smp_affinity_list,
        "CPUs a disk's interrupt may come to",
        when=_has_irqs,
    ),
    File(
        "/proc/irq/{irq}/effective_affinity_list",
        cpu_files.effective_affinity_list,
        "and that to which it comes",
        when=_has_irqs,
    ),
    File("/proc/softirqs", cpu_files.softirqs, "softirqs served, by vector and CPU"),
    File("/proc/stat", cpu_files.stat, "CPU time by kind, interrupts, switches"),
    File("/proc/schedstat", cpu_files.schedstat, "switches, wakeups, run and wait time by CPU"),
    File("/proc/loadavg", cpu_files.loadavg, "load averages"),
    File("/proc/pressure/cpu", cpu_files.pressure_cpu, "share of time a task waited for a CPU"),
    File("/proc/uptime", cpu_files.uptime, "seconds since boot, idle seconds"),
    File("/proc/version", sys_files.version, "the kernel"),
    File("/proc/diskstats", disk_files.diskstats, "IO of all disks"),
    File(
        "/proc/sched_debug", task_files.sched_debug, "runqueues and tasks by CPU", when=_no_debugfs
    ),
    File("/proc/{pid}/comm", task_files.comm, "a task's name"),
    File("/proc/{pid}/cmdline", task_files.cmdline, "its command line"),
    File("/proc/{pid}/sched", task_files.sched, "its scheduling statistics"),
    File("/proc/{pid}/schedstat", task_files.schedstat, "ns run, ns waited, times run"),
    File("/proc/{pid}/stat", task_files.stat, "its state, times, CPU in one line"),
    File("/proc/{pid}/status", task_files.status, "the same to be read"),
    File("/proc/vmstat", mem_files.vmstat, "dirty pages", when=mem_files.is_buffered),
    File("/proc/meminfo", mem_files.meminfo, "dirty pages in KiB", when=mem_files.is_buffered),
    File("/proc/sys/vm/{name}", mem_files.sysctl, "dirty limits", mem_files.sysctl_names),
    File("/proc/sys/kernel/{name}", sys_files.sysctl, "scheduler tunables", sys_files.sysctl_names),
    File(
        "/sys/kernel/debug/sched/{name}",
        sys_files.debugfs,
        "scheduler tunables",
        sys_files.debugfs_names,
    ),
    File(
        "/sys/kernel/debug/sched/debug",
        task_files.sched_debug,
        "runqueues and tasks",
        when=_debugfs,
    ),
    File("/sys/kernel/debug/sched/features", sys_files.features, "features", when=_debugfs),
    File("/sys/kernel/debug/sched_features", sys_files.features, "features", when=_no_debugfs),
    File("/sys/block/{disk}/dev", disk_files.dev, "major and minor number"),
    File("/sys/block/{disk}/inflight", disk_files.inflight, "requests that the driver has"),
    File("/sys/block/{disk}/size", disk_files.size, "size in sectors"),
    File("/sys/block/{disk}/stat", disk_files.stat, "IO of one disk"),
    File("/sys/block/{disk}/mq/{hctx}/cpu_list", disk_files.cpu_list, "CPUs of a hardware queue"),
    File("/sys/block/{disk}/mq/{hctx}/nr_tags", disk_files.nr_tags, "its tags"),
    File(
        "/sys/block/{disk}/mq/{hctx}/nr_reserved_tags", disk_files.nr_reserved_tags, "and reserved"
    ),
    File(
        "/sys/kernel/debug/block/{disk}/hctx{hctx}/dispatch_busy",
        disk_files.dispatch_busy,
        "how busy its driver was of late, 0 to 9",
    ),
    File("/sys/kernel/debug/block/{disk}/hctx{hctx}/type", disk_files.hctx_type, "what it is for"),
    File("/sys/block/{disk}/queue/scheduler", disk_files.scheduler, "the elevator"),
    File("/sys/block/{disk}/queue/nr_requests", disk_files.nr_requests, "requests of the queue"),
    File("/sys/block/{disk}/queue/rq_affinity", disk_files.rq_affinity, "steering of completions"),
    File(
        "/sys/block/{disk}/queue/logical_block_size", disk_files.logical_block_size, "sector size"
    ),
    File("/sys/block/{disk}/queue/rotational", disk_files.rotational, "whether it turns"),
    File(
        "/sys/block/{disk}/queue/{name}",
        disk_files.queue_file,
        "other limits",
        lambda _view: list(disk_files.QUEUE_FILES),
    ),
    File("/sys/devices/virtual/workqueue/cpumask", wq_files.cpumask, "of unbound works"),
    *(
        File(f"{place}/{queue}/{{name}}", wq_files.attribute, "a workqueue", wq_files.attributes)
        for place in ("/sys/bus/workqueue/devices", "/sys/devices/virtual/workqueue")
        for queue in wq_files.SYSFS
    ),
    File(f"{_CPU}/online", sys_files.cpu_online, "CPUs online"),
    File(f"{_CPU}/offline", sys_files.cpu_offline, "CPUs offline"),
    File(f"{_CPU}/possible", sys_files.cpu_possible, "CPUs there are"),
    File(f"{_CPU}/present", sys_files.cpu_possible, "the same"),
    File(f"{_CPU}/cpu{{cpu}}/online", sys_files.cpu_is_online, "is this CPU"),
    File(
        f"{_CPU}/cpu{{cpu}}/topology/{{name}}",
        sys_files.topology,
        "what it shares",
        sys_files.topology_names,
    ),
    File(
        f"{_CPU}/cpu{{cpu}}/cache/index3/{{name}}",
        sys_files.llc,
        "its last-level cache",
        lambda _view: ["level", "shared_cpu_list", "shared_cpu_map", "type"],
    ),
    File(
        "/sys/devices/system/node/node{node}/{name}",
        sys_files.node_cpus,
        "a NUMA node",
        lambda _view: ["cpulist", "cpumap", "distance"],
    ),
)


def read_file(view: View, path: str) -> str:
    """Return the text of a file; raise NoFileError, which names the nearest there is."""
    path = "/" + path.strip("/")
    problem = NO_SUCH_FILE
    for file in FILES:
        arguments = file.match(path)
        if arguments is None or not file.exists(view):
            continue
        try:
            return file.read(view, **arguments)
        except NoFileError as error:
            problem = str(error)
    hint = "" if problem != NO_SUCH_FILE else _nearest(view, path)
    raise NoFileError(f"{path}: {problem}{hint}")


def list_files(view: View) -> list[tuple[str, str]]:
    """Return the paths there are, numbers left open, and what each tells."""
    rows: list[tuple[str, str]] = []
    for file in FILES:
        if file.exists(view):
            names = file.names(view) if file.names is not None else []
            path = file.path if len(names) != 1 else file.path.replace("{name}", names[0])
            about = file.about + (f"; NAME: {', '.join(names)}" if len(names) > 1 else "")
            if names or file.names is None:
                rows.append((_shown(view, path), about))
    return rows


def all_paths(view: View) -> Iterator[str]:
    """Yield the path of every file that a box has, each number and name written out."""
    numbers = {
        "pid": view.pids,
        "irq": [irq.number for irq in cpu_files.device_irqs(view)],
        "cpu": range(view.nr_cpus),
        "node": range(len(set(view.spec.machine.node))),
    }
    for file in FILES:
        if not file.exists(view):
            continue
        names = file.names(view) if file.names is not None else [""]
        disks = [disk.name for disk in view.spec.disks] if "{disk}" in file.path else [""]
        word = next((word for word in numbers if f"{{{word}}}" in file.path), "")
        for disk, name, number in product(disks, names, numbers.get(word, [0])):
            hctxs = disk_files.nr_queues(view, disk) if "{hctx}" in file.path else 1
            for hctx in range(hctxs):
                words = {"disk": disk, "name": name, "hctx": hctx, word: number}
                yield file.path.format(**words)


# The numbers that can stand in a path; a directory with one entry is written out.
def _shown(view: View, path: str) -> str:
    disks = [disk.name for disk in view.spec.disks]
    words = {
        "pid": "PID",
        "irq": "IRQ",
        "cpu": f"[0-{view.nr_cpus - 1}]" if view.nr_cpus > 1 else "0",
        "disk": disks[0] if len(disks) == 1 else "DISK",
        "hctx": "N",
        "node": "N",
        "name": "NAME",
    }
    for word, text in words.items():
        path = path.replace(f"{{{word}}}", text)
    return path


def _nearest(view: View, path: str) -> str:
    candidates = [one for one in _candidates(view, path) if one != path]
    close = difflib.get_close_matches(path, candidates, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else "; `cat RUN` lists what there is"


# Numbers and disks as in the path that was asked for, so that the rest must be alike.
def _candidates(view: View, path: str) -> list[str]:
    number = next(iter(re.findall(r"(?<!index)\d+", path)), "0")
    disks = [disk.name for disk in view.spec.disks]
    disk = next((disk for disk in disks if f"/{disk}/" in path), disks[0] if disks else "")
    candidates: list[str] = []
    for file in FILES:
        if file.exists(view):
            for name in file.names(view) if file.names is not None else [""]:
                words = dict.fromkeys(_WORDS, number) | {"disk": disk, "name": name}
                candidates.append(file.path.format(**words))
    return candidates
