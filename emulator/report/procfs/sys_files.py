"""Files about the kernel and the machine: scheduler tunables and features, CPUs and what they share."""

from collections.abc import Callable

from emulator.boxfile.kernel import has_sysctl
from emulator.report.procfs.task_files import mask_format
from emulator.report.procfs.view import NoFileError, View, first_of
from emulator.types import cpulist_format

#: The scheduler's sysctls, and where the tunables have them.
TUNABLES = {
    "sched_latency_ns": "latency",
    "sched_min_granularity_ns": "min_granularity",
    "sched_wakeup_granularity_ns": "wakeup_granularity",
    "sched_base_slice_ns": "sysctl_base_slice",
    "sched_migration_cost_ns": "migration_cost",
    "sched_nr_migrate": "nr_migrate",
    "sched_child_runs_first": "child_runs_first",
    "sched_tunable_scaling": "tunable_scaling",
    "sched_rt_period_us": "rt_period_us",
    "sched_rt_runtime_us": "rt_runtime_us",
    "sched_rr_timeslice_ms": "rr_timeslice_ms",
}

#: What debugfs has not taken over.
STAYS_SYSCTL = (
    "sched_child_runs_first",
    "sched_rt_period_us",
    "sched_rt_runtime_us",
    "sched_rr_timeslice_ms",
)


# -- Tunables -----------------------------------------------------------------------------------


def sysctl_names(view: View) -> list[str]:
    """Return the scheduler's files below ``/proc/sys/kernel``."""
    rules = view.spec.kernel.rules
    names = [name for name in TUNABLES if has_sysctl(f"kernel.{name}", rules)]
    return [name for name in names if name in STAYS_SYSCTL] if rules.sched_debugfs else names


def debugfs_names(view: View) -> list[str]:
    """Return the scheduler's tunables below ``/sys/kernel/debug/sched``."""
    rules = view.spec.kernel.rules
    if not rules.sched_debugfs:
        return []
    names = [name for name in TUNABLES if has_sysctl(f"kernel.{name}", rules)]
    return [name.removeprefix("sched_") for name in names if name not in STAYS_SYSCTL]


def sysctl(view: View, name: str) -> str:
    """Return ``/proc/sys/kernel/sched_…``."""
    if name not in sysctl_names(view):
        raise NoFileError(_elsewhere(view, name))
    return f"{getattr(view.tunables, TUNABLES[name])}\n"


def debugfs(view: View, name: str) -> str:
    """Return ``/sys/kernel/debug/sched/…`` (from v5.13 on)."""
    if name not in debugfs_names(view):
        raise NoFileError(_elsewhere(view, f"sched_{name}"))
    value = getattr(view.tunables, TUNABLES[f"sched_{name}"])
    if name == "tunable_scaling":
        return (
            " ".join(
                f"({word})" if index == value else word
                for index, word in enumerate(("none", "logarithmic", "linear"))
            )
            + "\n"
        )
    return f"{value}\n"


def _elsewhere(view: View, name: str) -> str:
    version = view.spec.kernel.version
    places = [f"/proc/sys/kernel/{one}" for one in sysctl_names(view)]
    places += [f"/sys/kernel/debug/sched/{one}" for one in debugfs_names(view)]
    word = name.removeprefix("sched_")
    hint = next((place for place in places if place.endswith(word)), ", ".join(places))
    return f"{version} has no such tunable there; it has {hint}"


def features(view: View) -> str:
    """Return ``sched_features`` of debugfs: those switched off with ``NO_``."""
    chosen = view.spec.kernel.features.items()
    return " ".join(name if on else f"NO_{name}" for name, on in chosen) + "\n"


def version(view: View) -> str:
    """Return ``/proc/version``."""
    return f"Linux version {view.spec.kernel.version}.0-smpbox ({view.spec.name}) #1 SMP PREEMPT_NONE\n"


# -- Machine ------------------------------------------------------------------------------------


def cpu_online(view: View) -> str:
    """Return the CPUs that are online."""
    return cpulist_format(view.online_mask) + "\n"


def cpu_offline(view: View) -> str:
    """Return the CPUs that are not."""
    return cpulist_format(_all(view) & ~view.online_mask) + "\n"


def cpu_possible(view: View) -> str:
    """Return the CPUs there are."""
    return cpulist_format(_all(view)) + "\n"


def cpu_is_online(view: View, cpu: int) -> str:
    """Return ``cpuN/online``; CPU 0 cannot be taken offline and has no such file."""
    _known(view, cpu)
    return f"{int(cpu in view.online)}\n"


def _siblings(view: View, cpu: int) -> int:
    return view.spec.machine.core[cpu]


def _cluster(view: View, cpu: int) -> int:
    machine = view.spec.machine
    return machine.cluster[cpu] if machine.cluster else machine.core[cpu]


def _package(view: View, cpu: int) -> int:
    return view.spec.machine.die[cpu]


#: Files of ``topology/`` that name CPUs, each also as ``…_list``; later ones by version.
TOPOLOGY: dict[str, Callable[[View, int], int]] = {
    "core_cpus": _siblings,
    "core_siblings": _package,
    "die_cpus": _package,
    "package_cpus": _package,
    "thread_siblings": _siblings,
    "cluster_cpus": _cluster,
}
CLUSTER = ("cluster_cpus", "cluster_cpus_list", "cluster_id")
TOPOLOGY_IDS = ("core_id", "die_id", "physical_package_id", "cluster_id")


def topology_names(view: View) -> list[str]:
    """Return the files of a CPU's ``topology/``."""
    masks = [name + end for name in TOPOLOGY for end in ("", "_list")]
    names = sorted([*masks, *TOPOLOGY_IDS])
    has_cluster = view.spec.kernel.rules.sd_cluster
    return [name for name in names if has_cluster or name not in CLUSTER]


def topology(view: View, cpu: int, name: str) -> str:
    """Return a file of ``cpuN/topology/``: CPUs that share something, or what is its number."""
    _known(view, cpu)
    if name not in topology_names(view):
        raise NoFileError("no such file")
    if name in TOPOLOGY_IDS:
        return f"{_topology_id(view, cpu, name)}\n"
    mask = TOPOLOGY[name.removesuffix("_list")](view, cpu) & view.online_mask
    return (cpulist_format(mask) if name.endswith("_list") else _mask(view, mask)) + "\n"


# Numbers count from 0 within what they are part of; packages and dies are one thing here.
def _topology_id(view: View, cpu: int, name: str) -> int:
    machine = view.spec.machine
    packages = list(dict.fromkeys(machine.die))
    if name == "physical_package_id":
        return packages.index(machine.die[cpu])
    if name == "die_id":
        return 0
    if name == "cluster_id":
        return first_of(_cluster(view, cpu)) if machine.cluster else -1
    cores = [core for core in dict.fromkeys(machine.core) if core & machine.die[cpu]]
    return cores.index(machine.core[cpu])


def llc(view: View, cpu: int, name: str) -> str:
    """Return a file of ``cpuN/cache/index3/``; a CPU that shares no cache has it for itself."""
    _known(view, cpu)
    mask = (view.spec.machine.llc[cpu] or 1 << cpu) & view.online_mask
    files = {
        "level": "3",
        "type": "Unified",
        "shared_cpu_list": cpulist_format(mask),
        "shared_cpu_map": _mask(view, mask),
    }
    if name not in files:
        raise NoFileError(f"cache/index3/ has {', '.join(files)}, not {name}")
    return files[name] + "\n"


def node_cpus(view: View, node: int, name: str) -> str:
    """Return ``nodeN/cpulist``, ``cpumap`` or ``distance``."""
    machine = view.spec.machine
    nodes = list(dict.fromkeys(machine.node))
    if node >= len(nodes):
        raise NoFileError(f"there are the nodes 0-{len(nodes) - 1}, not {node}")
    if name == "distance":
        return " ".join(map(str, machine.node_distance[node])) + "\n"
    mask = nodes[node] & view.online_mask
    return (cpulist_format(mask) if name == "cpulist" else _mask(view, mask)) + "\n"


def _all(view: View) -> int:
    return (1 << view.nr_cpus) - 1


def _mask(view: View, mask: int) -> str:
    return mask_format(mask, view.nr_cpus)


def _known(view: View, cpu: int) -> None:
    if cpu >= view.nr_cpus:
        raise NoFileError(f"there are the CPUs 0-{view.nr_cpus - 1}, not {cpu}")
