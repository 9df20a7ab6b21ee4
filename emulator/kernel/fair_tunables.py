"""The fair class's sysctls and features: who may write them, and how they scale with the CPUs.

Theory of operation
-------------------
Latency and the two granularities are stored twice: as the scheduler uses them, and *normalized*,
as they would be on one CPU.  The factor between the two grows with the number of online CPUs, so a
hotplug event recomputes the first from the second (:func:`update_sysctl`).  A write by hand stores
the value as given, and computes the second from it (:func:`sched_proc_update_handler`).

``nr_latency``, how many tasks share one latency period, follows a write but not a hotplug event.
Since v5.13 (``rules.nr_latency_by_scaling``) the granularities are plain variables in debugfs: a
write stores the value and nothing else, and only a write to ``tunable_scaling`` recomputes the rest.

Models ``kernel/sched/fair.c`` (``update_sysctl()``, ``sched_proc_update_handler()``), the
``sched_*`` entries of ``kernel/sysctl.c`` and ``sched_feat_set()`` of ``debug.c``, v5.4.

Departures from the kernel
--------------------------
* ``sched_nr_migrate`` below 0 is refused; the kernel reads it as a very large number.
* The bounds of the sysctls hold for the files in debugfs too, which have none.
* Features that choose between mechanisms which the box has only one way are not held here.
"""

from __future__ import annotations

from emulator.kernel.sched import Tunables
from emulator.types import KernelSpec

SCHED_TUNABLESCALING_NONE = 0
SCHED_TUNABLESCALING_LOG = 1
SCHED_TUNABLESCALING_LINEAR = 2

_INT_MAX = (1 << 31) - 1
_GRANULARITY_MIN = 100_000
_GRANULARITY_MAX = 1_000_000_000

#: sysctl → (slot of Tunables, least, greatest value), all inclusive.
_SCALED = {
    "sched_latency_ns": ("latency", _GRANULARITY_MIN, _GRANULARITY_MAX),
    "sched_min_granularity_ns": ("min_granularity", _GRANULARITY_MIN, _GRANULARITY_MAX),
    "sched_wakeup_granularity_ns": ("wakeup_granularity", 0, _GRANULARITY_MAX),
    "sched_tunable_scaling": ("tunable_scaling", 0, SCHED_TUNABLESCALING_LINEAR),
}
_PLAIN = {
    "sched_migration_cost_ns": ("migration_cost", -1, _INT_MAX),
    "sched_nr_migrate": ("nr_migrate", 0, _INT_MAX),
    "sched_child_runs_first": ("child_runs_first", 0, _INT_MAX),
    "sched_rt_period_us": ("rt_period_us", 1, _INT_MAX),
    "sched_rt_runtime_us": ("rt_runtime_us", -1, _INT_MAX),
    "sched_rr_timeslice_ms": ("rr_timeslice_ms", 1, _INT_MAX),
    # A file of debugfs: the next hotplug event scales the default again, not what was written.
    "sched_base_slice_ns": ("sysctl_base_slice", _GRANULARITY_MIN, _GRANULARITY_MAX),
}
#: The sysctls that :func:`sched_proc_update_handler` knows, without ``kernel.``.
SYSCTLS = (*_SCALED, *_PLAIN)
#: Of them those that must fit each other, and what is wrong if they do not.
RT_SYSCTLS = ("sched_rt_period_us", "sched_rt_runtime_us")
RT_PROBLEM = "sched_rt_runtime_us is more than sched_rt_period_us (the kernel says EINVAL)"

#: The features that :class:`~emulator.kernel.sched.Tunables` holds, by their kernel names.
FEATURES = (
    "GENTLE_FAIR_SLEEPERS",
    "START_DEBIT",
    "NEXT_BUDDY",
    "LAST_BUDDY",
    "CACHE_HOT_BUDDY",
    "WAKEUP_PREEMPTION",
    "BASE_SLICE",
    "UTIL_EST",
    "WA_IDLE",
    "WA_WEIGHT",
    "WA_BIAS",
    "SIS_PROP",
    "PLACE_LAG",
    "PLACE_DEADLINE_INITIAL",
    "PLACE_REL_DEADLINE",
    "RUN_TO_PARITY",
    "PREEMPT_SHORT",
    "DELAY_DEQUEUE",
    "DELAY_ZERO",
    "SIS_AVG_CPU",
    "SIS_UTIL",
    "RT_RUNTIME_SHARE",
)


def get_update_sysctl_factor(tun: Tunables) -> int:
    """Return by how much the granularities grow with the online CPUs, 8 at most counting."""
    cpus = min(tun.nr_online, 8)
    if tun.tunable_scaling == SCHED_TUNABLESCALING_NONE:
        return 1
    if tun.tunable_scaling == SCHED_TUNABLESCALING_LINEAR:
        return cpus
    return cpus.bit_length()  # 1 + log2, rounded down


def update_sysctl(tun: Tunables, nr_online: int) -> None:
    """Rescale the granularities to the online CPUs, at boot and hotplug (``update_sysctl()``)."""
    assert nr_online > 0, "a box without CPUs"
    tun.nr_online = nr_online
    factor = get_update_sysctl_factor(tun)
    tun.sysctl_base_slice = tun.normalized_base_slice * factor
    tun.latency = tun.normalized_latency * factor
    tun.min_granularity = tun.normalized_min_granularity * factor
    tun.wakeup_granularity = tun.normalized_wakeup_granularity * factor


def sched_proc_update_handler(
    tun: Tunables, name: str, value: int, by_scaling: bool = False
) -> None:
    """Write one scheduler sysctl, ``kernel.`` optional; ns (``sched_proc_update_handler()``).

    ``by_scaling``: rules.nr_latency_by_scaling, only tunable_scaling recomputes nr_latency.  Raise ValueError, the kernel's EINVAL, for an unknown name or a value out of bounds, and
    change nothing then.
    """
    key = name.removeprefix("kernel.")
    entry = _SCALED.get(key) or _PLAIN.get(key)
    if entry is None:
        raise ValueError(f"{name} is not a scheduler sysctl of this kernel")
    slot, least, greatest = entry
    if not least <= value <= greatest:
        raise ValueError(f"{name} must be {least} to {greatest}, not {value}")
    if key in RT_SYSCTLS:
        wanted = {slot: getattr(tun, slot) for slot in ("rt_period_us", "rt_runtime_us")}
        wanted[slot] = value
        if wanted["rt_runtime_us"] > wanted["rt_period_us"]:
            raise ValueError(RT_PROBLEM)
    setattr(tun, slot, value)
    if key == "sched_tunable_scaling" or (key in _SCALED and not by_scaling):
        _renormalize(tun)


def _renormalize(tun: Tunables) -> None:
    # Whichever of them was written, the kernel recomputes all of this.
    tun.nr_latency = -(-tun.latency // tun.min_granularity)
    factor = get_update_sysctl_factor(tun)
    tun.normalized_latency = tun.latency // factor
    tun.normalized_min_granularity = tun.min_granularity // factor
    tun.normalized_wakeup_granularity = tun.wakeup_granularity // factor


def sched_feat_set(tun: Tunables, name: str, enabled: bool) -> None:
    """Switch a scheduler feature (``sched_feat_set()``); ValueError if it is not held here."""
    if name not in FEATURES:
        raise ValueError(f"{name} is not a feature that can be switched")
    setattr(tun, name.lower(), enabled)


def tunables(kernel: KernelSpec, nr_online: int) -> Tunables:
    """Return the tunables of a booted kernel: scaled to its CPUs, then written as the box says.

    Sysctls and features of other mechanisms are passed over.
    """
    tun = Tunables()
    update_sysctl(tun, nr_online)
    for name in FEATURES:
        if kernel.features:
            sched_feat_set(tun, name, kernel.features.get(name, False))  # none that is not known
    for name, value in kernel.sysctls.items():
        key = name.removeprefix("kernel.")
        if key == "sched_tunable_scaling" and value == tun.tunable_scaling:
            continue  # a default: nobody has written it
        if key in RT_SYSCTLS:
            setattr(tun, _PLAIN[key][0], value)  # the box file has seen that they fit
        elif key in SYSCTLS:
            sched_proc_update_handler(tun, key, value, kernel.rules.nr_latency_by_scaling)
    return tun
