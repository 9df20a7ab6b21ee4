"""The table of workqueues and the pools that serve the unbound ones: ``kernel/workqueue.c``.

Theory of operation
-------------------
A workqueue is one row of :data:`ROWS`: its name, the flags that the kernel's caller of
``alloc_workqueue()`` gives it, and its ``max_active``.  Everything else follows from them.  A *bound*
queue has its items run by the two pools of the CPU that queues (:mod:`workqueue`).  An *unbound* one
(``WQ_UNBOUND``) is served by pools of no CPU, one per *pod*: up to 6.5 a pod is a NUMA node and the
workers stay in it; from 6.6 on it is what the affinity scope says, and unless that is strict the
workers may run wherever the workqueues' cpumask allows, and are only brought back when they are woken.
Queues with the same attributes share their pools, which :func:`unbound_pools` lays out, alike for every
node of a box.

A queue whose ``max_active`` is 1 is made ordered if it is unbound: all of it is served by the one pool
that spans all CPUs.

Departures from the kernel: attributes are those of the box, the same for every unbound queue; a pool
exists from the start if some queue in use may need it, and its number is its place in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel.xfs_file import file_table
from emulator.types import cpumask_first

if TYPE_CHECKING:
    from emulator.types import BoxSpec, MachineSpec

# Flags, by the kernel's numbers.
WQ_UNBOUND = 2
WQ_FREEZABLE = 4
WQ_MEM_RECLAIM = 8
WQ_HIGHPRI = 16
WQ_CPU_INTENSIVE = 32
WQ_SYSFS = 64
WQ_POWER_EFFICIENT = 128

#: alloc_workqueue(…, 0), and what no queue may exceed.
WQ_DFL_ACTIVE = 256
WQ_MAX_ACTIVE = 512
WQ_UNBOUND_MOST = 1 << 16  # as much as an unbound queue may have: 512, or 4 per CPU
HIGHPRI_NICE = -20

# Ids: places in the table.
WQ_DIO = 0
WQ_KBLOCKD = 1
WQ_XFS_CONV = 2
WQ_EVENTS = 3
WQ_INTENSIVE = 4
WQ_EVENTS_HIGHPRI = 5
WQ_EVENTS_LONG = 6
WQ_EVENTS_UNBOUND = 7
WQ_EVENTS_POWER_EFFICIENT = 8
WQ_KINTEGRITYD = 9
WQ_WRITEBACK = 10
WQ_XFS_BUF = 11
WQ_XFS_LOG = 12
WQ_XFS_CIL = 13
WQ_XFS_SYNC = 14
WQ_XFSALLOC = 15
WQ_XFSDISCARD = 16

#: Affinity scopes (6.6): what makes a pod.
SCOPES = ("cpu", "smt", "cache", "numa", "system")

#: ``TaskRun.worker`` of an unbound worker is this plus the index of its pool.
UNBOUND_BASE = 2


class Workqueue:
    """One workqueue: the attributes that decide where and how its items run."""

    __slots__ = ("cpu_intensive", "flags", "max_active", "name", "ordered", "pool", "unbound")

    def __init__(self, name: str, flags: int, max_active: int = 0, nr_cpus: int = 1) -> None:
        self.name = name
        self.flags = flags
        #: As the kernel clamps it; 0 asks for the default.
        most = max(WQ_MAX_ACTIVE, 4 * nr_cpus) if flags & WQ_UNBOUND else WQ_MAX_ACTIVE
        self.max_active = min(max_active or WQ_DFL_ACTIVE, most)
        #: which of a CPU's two pools, or of a pod's, serves it: 1 for HIGHPRI
        self.pool = int(bool(flags & WQ_HIGHPRI))
        #: whether its items do not count in ``nr_running``
        self.cpu_intensive = bool(flags & WQ_CPU_INTENSIVE)
        #: whether it is served by pools of no CPU
        self.unbound = bool(flags & WQ_UNBOUND)
        self.ordered = self.unbound and max_active == 1


_RECLAIM = WQ_MEM_RECLAIM
_FREEZABLE = WQ_MEM_RECLAIM | WQ_FREEZABLE

#: The workqueues (F.16): id -> (name, flags, max_active or 0 for the default).  A name that ends in a
#: slash is followed by the disk.
ROWS: dict[int, tuple[str, int, int]] = {
    WQ_DIO: ("dio/", _RECLAIM, 0),
    WQ_KBLOCKD: ("kblockd", _RECLAIM | WQ_HIGHPRI, 0),
    WQ_XFS_CONV: ("xfs-conv/", _FREEZABLE, 0),
    WQ_EVENTS: ("events", 0, 0),
    WQ_INTENSIVE: ("cpu_intensive", WQ_CPU_INTENSIVE, 0),
    WQ_EVENTS_HIGHPRI: ("events_highpri", WQ_HIGHPRI, 0),
    WQ_EVENTS_LONG: ("events_long", 0, 0),
    WQ_EVENTS_UNBOUND: ("events_unbound", WQ_UNBOUND, WQ_UNBOUND_MOST),
    WQ_EVENTS_POWER_EFFICIENT: ("events_power_efficient", WQ_POWER_EFFICIENT, 0),
    WQ_KINTEGRITYD: ("kintegrityd", _RECLAIM | WQ_HIGHPRI | WQ_CPU_INTENSIVE, 1),
    WQ_WRITEBACK: ("writeback", _RECLAIM | WQ_UNBOUND | WQ_SYSFS, 0),
    WQ_XFS_BUF: ("xfs-buf/", _FREEZABLE, 1),
    WQ_XFS_LOG: ("xfs-log/", _FREEZABLE | WQ_HIGHPRI, 0),
    WQ_XFS_CIL: ("xfs-cil/", _FREEZABLE | WQ_UNBOUND, 0),
    WQ_XFS_SYNC: ("xfs-sync/", WQ_FREEZABLE, 0),
    WQ_XFSALLOC: ("xfsalloc", _FREEZABLE, 0),
    WQ_XFSDISCARD: ("xfsdiscard", WQ_UNBOUND, 0),
}

#: Their names without the disk.
WQ_NAMES = tuple(name.rstrip("/") for name, _flags, _max_active in ROWS.values())


def workqueues(spec: BoxSpec) -> dict[int, Workqueue]:
    """Return the workqueues of a box, with what it asks of them."""
    disk = spec.filesystems[0].disk if spec.filesystems else "none"
    asked = spec.kernel.workqueue
    limits = dict(asked.max_active)
    table: dict[int, Workqueue] = {}
    for wq_id, (name, flags, max_active) in ROWS.items():
        efficient = asked.power_efficient and flags & WQ_POWER_EFFICIENT
        if efficient or name.rstrip("/") in asked.unbound:
            flags |= WQ_UNBOUND
        max_active = limits.get(name.rstrip("/"), max_active)
        full_name = name + disk if name.endswith("/") else name
        table[wq_id] = Workqueue(full_name, flags, max_active, spec.machine.nr_cpus)
    return table


def short_name(wq: Workqueue) -> str:
    """Return a queue's name without the disk: ``dio`` of ``dio/sda``."""
    return wq.name.partition("/")[0]


def in_use(spec: BoxSpec, table: dict[int, Workqueue]) -> list[int]:
    """Return the unbound queues that the box may queue to, by id."""
    named = set(spec.kernel.workqueue.unbound)
    for workload in spec.workloads:
        named.update(workload.params.get("workqueues", ()))
    if any(not facts.plain for facts in file_table(spec).values()):
        named.add("xfs-cil")  # the log may be forced
    if spec.writes_buffered:
        named.add("writeback")
    return [wq_id for wq_id, wq in table.items() if wq.unbound and short_name(wq) in named]


def shared_node(spec: BoxSpec) -> int:
    """Return the id of the node that owns the objects of no CPU, -1 if the box has none."""
    if not in_use(spec, workqueues(spec)):
        return -1
    return spec.machine.nr_cpus + 1 + len(spec.disks)


# -- Pods and their pools -----------------------------------------------------------------------


class UnboundPool:
    """What is fixed about one unbound pool: where its workers may be, and where they should be."""

    __slots__ = ("home", "index", "mask", "name_id", "nice", "pod")

    def __init__(
        self, index: int, name_id: int, nice: int, mask: int, pod: int, home: int = -1
    ) -> None:
        self.index = index
        self.name_id = name_id  #: number of the pool: ``kworker/u8:0`` is a worker of pool 8
        self.nice = nice
        self.mask = mask  #: CPUs that its workers may use
        self.pod = pod  #: CPUs to which a worker is brought back at its wakeup
        self.home = home  #: the CPU whose pool it is when that is online, -1: of no CPU

    def worker_name(self, number: int) -> str:
        """Return what a worker is called."""
        pool = f"u{self.name_id}" if self.home < 0 else f"{self.home}"
        return f"kworker/{pool}:{number}{'H' if self.nice < 0 else ''}"

    @property
    def repatriates(self) -> bool:
        """Whether workers may leave the pod, so that wakeups have to bring them back."""
        return bool(self.mask & ~self.pod)


def pod_masks(machine: MachineSpec, scope: str) -> tuple[int, ...]:
    """Return the pod of every CPU under an affinity scope."""
    if scope == "cpu":
        return tuple(1 << cpu for cpu in range(machine.nr_cpus))
    if scope == "smt":
        return machine.core
    if scope == "cache":
        return tuple(mask or 1 << cpu for cpu, mask in enumerate(machine.llc))
    if scope == "numa":
        return machine.node
    return ((1 << machine.nr_cpus) - 1,) * machine.nr_cpus


def affinity(spec: BoxSpec) -> tuple[str, bool]:
    """Return the affinity scope of a box's unbound queues and whether it is strict."""
    asked = spec.kernel.workqueue
    if not spec.kernel.rules.wq_affinity_scopes:
        return "numa", True
    return asked.affinity_scope or "cache", asked.affinity_strict


def unbound_cpumask(spec: BoxSpec) -> int:
    """``wq_unbound_cpumask``: the CPUs that unbound work may use."""
    everyone = (1 << spec.machine.nr_cpus) - 1
    return spec.kernel.workqueue.cpumask & everyone or everyone


def unbound_pools(
    spec: BoxSpec, table: dict[int, Workqueue]
) -> tuple[list[UnboundPool], dict[int, list[int]]]:
    """Return the unbound pools of a box, and per queue in use the index of each CPU's pool.

    The first pool is the one that spans all CPUs, as the first to be made.
    """
    scope, strict = affinity(spec)
    allowed = unbound_cpumask(spec)
    pods = [pod & allowed or allowed for pod in pod_masks(spec.machine, scope)]
    found: dict[tuple[int, int, int], UnboundPool] = {}

    def pool_index(nice: int, mask: int, pod: int) -> int:
        key = (nice, mask, pod)
        if key not in found:
            index = len(found)
            found[key] = UnboundPool(index, 2 * spec.machine.nr_cpus + index, nice, mask, pod)
        return found[key].index

    by_cpu: dict[int, list[int]] = {}
    for wq_id in in_use(spec, table):
        wq = table[wq_id]
        nice = HIGHPRI_NICE if wq.flags & WQ_HIGHPRI else 0
        whole = pool_index(nice, allowed, allowed)
        by_cpu[wq_id] = [
            whole if wq.ordered else pool_index(nice, pod if strict else allowed, pod)
            for pod in pods
        ]
    return list(found.values()), by_cpu


def disassociated_pools(spec: BoxSpec, first: int) -> list[UnboundPool]:
    """Return every CPU's two pools as they are while that CPU is offline (F.11), from an index on.

    Their workers may run on all CPUs, from 6.0 on on those that unbound work may use.
    """
    everyone = (1 << spec.machine.nr_cpus) - 1
    mask = unbound_cpumask(spec) if spec.kernel.rules.wq_unbind_cpumask else everyone
    return [
        UnboundPool(first + 2 * cpu + index, 2 * cpu + index, nice, mask, mask, cpu)
        for cpu in range(spec.machine.nr_cpus)
        for index, nice in enumerate((0, HIGHPRI_NICE))
    ]


#: Pids of the workers that unbound pools have from the boot on.
FIRST_UNBOUND_PID = 5_000
BOOT_WORKERS = 2


def boot_workers(
    pools: list[UnboundPool], by_cpu: dict[int, list[int]]
) -> list[tuple[int, int, int, int]]:
    """Return the workers of a machine that has been up for a while: (pid, pool, number, CPU)."""
    used = sorted({index for indices in by_cpu.values() for index in indices})
    return [
        (FIRST_UNBOUND_PID + BOOT_WORKERS * index + n, index, n, cpumask_first(pools[index].pod))
        for index in used
        for n in range(BOOT_WORKERS)
    ]
