"""The kernel of a box: version, sched features and sysctls by their kernel names, presets.

What a version has is a table here; nothing else in this file knows versions.  Sysctls whose
default the kernel computes from the number of online CPUs (latency and the two granularities) are
left out unless somebody wrote them, because writing them is an act of its own: it sets
``nr_latency`` and stops at the value written until the next CPU goes on- or offline.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.boxfile.problems import Path, Report
from emulator.types import KernelSpec

if TYPE_CHECKING:
    from emulator.config import Kernel

#: Versions that the project is about; only those in FEATURES are built.
VERSIONS = ("5.4", "5.6", "5.10", "5.15", "6.1", "6.6", "6.12")

#: Per version, every sched feature and its default.
FEATURES: dict[str, dict[str, bool]] = {
    "5.4": {
        "GENTLE_FAIR_SLEEPERS": True,
        "START_DEBIT": True,
        "NEXT_BUDDY": False,
        "LAST_BUDDY": True,
        "CACHE_HOT_BUDDY": True,
        "WAKEUP_PREEMPTION": True,
        "HRTICK": False,
        "DOUBLE_TICK": False,
        "NONTASK_CAPACITY": True,
        "TTWU_QUEUE": True,
        "SIS_AVG_CPU": False,
        "SIS_PROP": True,
        "WARN_DOUBLE_CLOCK": False,
        "RT_PUSH_IPI": True,
        "RT_RUNTIME_SHARE": True,
        "LB_MIN": False,
        "ATTACH_AGE_LOAD": True,
        "WA_IDLE": True,
        "WA_WEIGHT": True,
        "WA_BIAS": True,
        "UTIL_EST": True,
    },
}

_SEC = 1_000_000_000
_INT_MAX = (1 << 31) - 1

#: sysctl: lowest and highest value the kernel accepts, and its default (None: from the CPU count).
SYSCTLS: dict[str, tuple[int, int, int | None]] = {
    "kernel.sched_latency_ns": (100_000, _SEC, None),
    "kernel.sched_min_granularity_ns": (100_000, _SEC, None),
    "kernel.sched_wakeup_granularity_ns": (0, _SEC, None),
    "kernel.sched_migration_cost_ns": (0, _INT_MAX, 500_000),
    "kernel.sched_nr_migrate": (0, _INT_MAX, 32),
    "kernel.sched_child_runs_first": (0, 1, 0),
    "kernel.sched_tunable_scaling": (0, 2, 1),
}


def resolve_kernel(
    kernel: Kernel, presets: Mapping[str, Mapping[str, int]], report: Report
) -> KernelSpec | None:
    """Return the kernel with every switch decided, or None if it cannot be.

    ``presets`` are sysctls by preset name; what the box says itself wins.
    """
    before = len(report.problems)
    if kernel.version not in FEATURES:
        built = ", ".join(FEATURES)
        message = f"{kernel.version} is not built yet; built: {built}"
        if kernel.version not in VERSIONS:
            message = f"no such version; known: {', '.join(VERSIONS)}; built: {built}"
        report.at(("kernel", "version"), message)
        return None
    features = _features(kernel, report)
    written: dict[str, int] = {}
    if kernel.preset is not None and kernel.preset in presets:
        written.update(presets[kernel.preset])
    elif kernel.preset is not None:
        message = f"no such preset; there are {', '.join(sorted(presets)) or 'none'}"
        report.at(("kernel", "preset"), message)
    for name, value in kernel.sysctl.items():
        problem = sysctl_problem(name, value)
        if problem and name not in SYSCTLS:
            report.at_key(("kernel", "sysctl", name), problem)
        elif problem:
            report.at(("kernel", "sysctl", name), problem)
        written[name] = value
    for index, policy in enumerate(kernel.policies):
        report.at(("kernel", "policies", index), f"no policy is built yet, so not {policy!r}")
    if len(report.problems) > before:
        return None
    defaults = {name: rule[2] for name, rule in SYSCTLS.items() if rule[2] is not None}
    return KernelSpec(
        kernel.version,
        features,
        defaults | written,
        tuple(kernel.policies),
        rcu_callbacks=kernel.rcu_callbacks,
        rcu_needs_cpu=kernel.rcu_needs_cpu,
    )


def sysctl_problem(name: str, value: int) -> str | None:
    """Return what is wrong with writing ``value`` to a sysctl, None if nothing is."""
    rule = SYSCTLS.get(name)
    if rule is None:
        return f"no such sysctl{did_you_mean(name, SYSCTLS)}"
    low, high, _ = rule
    if not low <= value <= high:
        return f"{value} is outside {low}..{high} (the kernel says EINVAL)"
    return None


def did_you_mean(name: str, known: object) -> str:
    """Return ``; did you mean X?`` for the closest known name, or nothing."""
    assert isinstance(known, (Mapping, list, tuple, set, frozenset))
    close = difflib.get_close_matches(name, [str(one) for one in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _features(kernel: Kernel, report: Report) -> dict[str, bool]:
    features = dict(FEATURES[kernel.version])
    wanted: list[tuple[Path, str, bool]] = []
    if isinstance(kernel.features, dict):
        for name, value in kernel.features.items():
            wanted.append((("kernel", "features", name), name, value))
    else:
        for index, word in enumerate(kernel.features):
            value = not word.startswith("NO_")
            wanted.append((("kernel", "features", index), word.removeprefix("NO_"), value))
    for path, name, value in wanted:
        if name not in features:
            message = f"{kernel.version} has no feature {name}{did_you_mean(name, features)}"
            report.at_key(path, message)
        features[name] = value
    return features
