"""Files of workqueues: the CPUs of unbound ones, and the attributes of the one that is SYSFS."""

from dataclasses import replace

from emulator.kernel.wq_table import (
    HIGHPRI_NICE,
    ROWS,
    WQ_HIGHPRI,
    WQ_SYSFS,
    affinity,
    short_name,
    unbound_cpumask,
    unbound_pools,
    workqueues,
)
from emulator.report.procfs.task_files import mask_format
from emulator.report.procfs.view import NoFileError, View

#: Queues that have a directory, by the ``{queue}`` of their path.
SYSFS = tuple(name for name, flags, _max_active in ROWS.values() if flags & WQ_SYSFS)


def cpumask(view: View) -> str:
    """Return the CPUs on which unbound works may run."""
    return mask_format(unbound_cpumask(view.spec), view.nr_cpus) + "\n"


def attributes(view: View) -> list[str]:
    """Return the files of a queue; what unbound ones have besides changed with 6.6."""
    if view.spec.kernel.rules.wq_affinity_scopes:
        return [
            "affinity_scope",
            "affinity_strict",
            "cpumask",
            "max_active",
            "nice",
            "per_cpu",
        ]
    return ["cpumask", "max_active", "nice", "numa", "per_cpu", "pool_ids"]


def attribute(view: View, name: str) -> str:
    """Return one attribute of the SYSFS workqueue, which is ``writeback``."""
    if name not in attributes(view):
        raise NoFileError(f"{SYSFS[0]}/ has {', '.join(attributes(view))}, not {name}")
    spec = view.spec
    table = workqueues(spec)
    wq_id, wq = next((wq_id, wq) for wq_id, wq in table.items() if short_name(wq) == SYSFS[0])
    scope, strict = affinity(spec)
    asked = spec.kernel.workqueue.affinity_scope
    if name == "pool_ids":
        unbound = (*spec.kernel.workqueue.unbound, SYSFS[0])
        kernel = replace(spec.kernel, workqueue=replace(spec.kernel.workqueue, unbound=unbound))
        pools, by_cpu = unbound_pools(replace(spec, kernel=kernel), table)
        nodes = list(dict.fromkeys(spec.machine.node))
        ids = [pools[by_cpu[wq_id][(node & -node).bit_length() - 1]].name_id for node in nodes]
        return " ".join(f"{node}:{number}" for node, number in enumerate(ids)) + "\n"
    return {
        "affinity_scope": asked or f"default ({scope})",
        "affinity_strict": str(int(strict)),
        "cpumask": mask_format(unbound_cpumask(spec), view.nr_cpus),
        "max_active": str(wq.max_active),
        "nice": str(HIGHPRI_NICE if wq.flags & WQ_HIGHPRI else 0),
        "numa": "1",
        "per_cpu": str(int(not wq.unbound)),
    }[name] + "\n"
