"""The kernel of a box: version, policies, rules, sched features and sysctls by their names, presets.

What a version has stands in :mod:`emulator.rules`; here the box's words are laid over it, in the
order version, policies, rules.  Sysctls whose default the kernel computes from the number of online
CPUs (latency and the granularities) are left out unless somebody wrote them, because writing them is
an act of its own: it sets ``nr_latency`` and stops at the value written until the next CPU goes on-
or offline.

Departure: from 5.13 on the granularities are files below ``/sys/kernel/debug/sched`` and no sysctls
any more; a box goes on calling them ``kernel.sched_…_ns``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emulator.boxfile.problems import Path, Report
from emulator.completion import BOUND, COMPLETION_QUEUES, COMPLETIONS, CompletionSpec
from emulator.completion_word import resolve_completion
from emulator.kernel.fair_tunables import RT_PROBLEM
from emulator.kernel.wq_table import WQ_MAX_ACTIVE, WQ_NAMES
from emulator.rules import (
    FEATURES,
    POLICIES,
    RULES,
    VERSIONS,
    Rules,
    changed,
    missing_needs,
    policy_switches,
    rules_of,
)
from emulator.types import KernelSpec, WorkqueueSpec

if TYPE_CHECKING:
    from emulator.boxfile.schema import Kernel

_SEC = 1_000_000_000
#: What real-time tasks may run in each period, and how long that is.
RT_RUNTIME = "kernel.sched_rt_runtime_us"
RT_PERIOD = "kernel.sched_rt_period_us"
_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Sysctl:
    """What may be written to a sysctl, what it is if nothing is, and which kernels have it."""

    low: int
    high: int
    default: int | None  #: None: from the number of online CPUs
    eevdf: bool | None = None  #: only with EEVDF, only without (False), or both


SYSCTLS: dict[str, Sysctl] = {
    "kernel.sched_latency_ns": Sysctl(100_000, _SEC, None, eevdf=False),
    "kernel.sched_min_granularity_ns": Sysctl(100_000, _SEC, None, eevdf=False),
    "kernel.sched_wakeup_granularity_ns": Sysctl(0, _SEC, None, eevdf=False),
    "kernel.sched_base_slice_ns": Sysctl(100_000, _SEC, None, eevdf=True),
    "kernel.sched_migration_cost_ns": Sysctl(0, _INT_MAX, 500_000),
    "kernel.sched_nr_migrate": Sysctl(0, _INT_MAX, 32),
    "kernel.sched_child_runs_first": Sysctl(0, 1, 0, eevdf=False),
    "kernel.sched_tunable_scaling": Sysctl(0, 2, 1),
    "kernel.sched_rt_period_us": Sysctl(1, _INT_MAX, 1_000_000),
    "kernel.sched_rt_runtime_us": Sysctl(-1, _INT_MAX, 950_000),
    "kernel.sched_rr_timeslice_ms": Sysctl(1, _INT_MAX, 100),
    # Dirty pages (kernel/page_writeback.py knows the defaults): bytes and ratio unset each other.
    "vm.dirty_background_ratio": Sysctl(0, 100, None),
    "vm.dirty_background_bytes": Sysctl(1, _LONG_MAX, None),
    "vm.dirty_ratio": Sysctl(0, 100, None),
    "vm.dirty_bytes": Sysctl(2 * 4096, _LONG_MAX, None),
    "vm.dirty_writeback_centisecs": Sysctl(0, _INT_MAX, None),
    "vm.dirty_expire_centisecs": Sysctl(0, _INT_MAX, None),
}


def resolve_kernel(
    kernel: Kernel, presets: Mapping[str, Mapping[str, int]], report: Report
) -> KernelSpec | None:
    """Return the kernel with every switch decided, or None if it cannot be.

    ``presets`` are sysctls by preset name, of which a kernel takes those that it has; what the box
    says itself wins.
    """
    before = len(report.problems)
    if kernel.version not in VERSIONS:
        known = ", ".join(VERSIONS)
        report.at(("kernel", "version"), f"no such version; there are {known}")
        return None
    features = _features(kernel, report)
    rules = _rules(kernel, report)
    written = _written(kernel, presets, rules, report)
    completion = _completion(kernel, rules, report)
    workqueue = _workqueue(kernel, rules, report)
    rules, workqueue = _completion_queues(completion, rules, workqueue, report)
    if len(report.problems) > before:
        return None
    defaults = {
        name: sysctl.default
        for name, sysctl in SYSCTLS.items()
        if sysctl.default is not None and has_sysctl(name, rules)
    }
    return KernelSpec(
        kernel.version,
        features,
        defaults | written,
        tuple(kernel.policies),
        rules,
        threadirqs=kernel.threadirqs,
        rcu_callbacks=kernel.rcu_callbacks,
        rcu_needs_cpu=kernel.rcu_needs_cpu,
        completion=completion,
        workqueue=workqueue,
    )


def has_sysctl(name: str, rules: Rules) -> bool:
    """Whether a kernel of these rules has a sysctl."""
    sysctl = SYSCTLS.get(name)
    return sysctl is not None and sysctl.eevdf in (None, rules.eevdf)


def sysctl_problem(name: str, value: int, rules: Rules | None = None) -> str | None:
    """Return what is wrong with writing ``value`` to a sysctl, None if nothing is.

    Without rules, whether some kernel has it.
    """
    sysctl = SYSCTLS.get(name)
    if sysctl is None:
        return f"no such sysctl{did_you_mean(name, SYSCTLS)}"
    if rules is not None and not has_sysctl(name, rules):
        kind = "EEVDF has no" if rules.eevdf else "only EEVDF has"
        return f"{kind} {name.removeprefix('kernel.sched_').removesuffix('_ns')}"
    if not sysctl.low <= value <= sysctl.high:
        return f"{value} is outside {sysctl.low}..{sysctl.high} (the kernel says EINVAL)"
    return None


def did_you_mean(name: str, known: object) -> str:
    """Return ``; did you mean X?`` for the closest known name, or nothing."""
    assert isinstance(known, (Mapping, list, tuple, set, frozenset))
    close = difflib.get_close_matches(name, [str(one) for one in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _completion(kernel: Kernel, rules: Rules, report: Report) -> CompletionSpec:
    try:
        return resolve_completion(kernel.completion, rules)
    except ValueError as error:
        report.at(("kernel", "completion"), str(error))
        return CompletionSpec()


# Sysctls of the preset, as far as this kernel has them, and over them those of the box.
def _written(
    kernel: Kernel, presets: Mapping[str, Mapping[str, int]], rules: Rules, report: Report
) -> dict[str, int]:
    written: dict[str, int] = {}
    if kernel.preset is not None and kernel.preset in presets:
        preset = presets[kernel.preset]
        written.update({name: preset[name] for name in preset if has_sysctl(name, rules)})
    elif kernel.preset is not None:
        message = f"no such preset; there are {', '.join(sorted(presets)) or 'none'}"
        report.at(("kernel", "preset"), message)
    for name, value in kernel.sysctl.items():
        problem = sysctl_problem(name, value, rules)
        if problem and not has_sysctl(name, rules):
            report.at_key(("kernel", "sysctl", name), problem)
        elif problem:
            report.at(("kernel", "sysctl", name), problem)
        written[name] = value
    written_or_not = {name: sysctl.default for name, sysctl in SYSCTLS.items()} | written
    if (written_or_not[RT_RUNTIME] or 0) > (written_or_not[RT_PERIOD] or 0):
        report.at(("kernel", "sysctl"), RT_PROBLEM)
    return written


# The version's rules, then each policy's, then the box's own.
def _rules(kernel: Kernel, report: Report) -> Rules:
    rules = rules_of(kernel.version)
    for index, word in enumerate(kernel.policies):
        try:
            rules = changed(rules, policy_switches(word))
        except ValueError as error:
            name = word.partition("=")[0]
            hint = "" if name in POLICIES else did_you_mean(name, POLICIES)
            report.at(("kernel", "policies", index), f"{error}{hint}")
    known = {name: value for name, value in kernel.rules.items() if name in RULES}
    for name in kernel.rules:
        if name not in RULES:
            report.at_key(("kernel", "rules", name), f"no such rule{did_you_mean(name, RULES)}")
    for name, value in known.items():
        number = name == "kworker_nice"
        if number != (type(value) is int) or (number and not -20 <= value <= 19):
            wanted = "a nice level, -20 to 19" if number else "true or false"
            report.at(("kernel", "rules", name), f"{value} is not {wanted}")
            return rules
    rules = changed(rules, known)
    for name, needs in missing_needs(rules).items():
        said = next((one for one in (name, *needs) if one in known), None)
        path: Path = ("kernel", "rules", said) if said else ("kernel",)
        report.at(path, f"the rule {name} means nothing without {', '.join(needs)}")
    return rules


# Policies that say how the file systems' workqueues are made; the others are for bound ones.  And
# rules that belong to a policy.
def _completion_queues(
    completion: CompletionSpec, rules: Rules, workqueue: WorkqueueSpec, report: Report
) -> tuple[Rules, WorkqueueSpec]:
    policy = COMPLETIONS[completion.name]
    rules = changed(rules, dict.fromkeys(policy.rules, True))
    made = [name for name in COMPLETION_QUEUES if name in workqueue.unbound]
    if not policy.unbound:
        if made and completion.name != BOUND:
            text = f"{completion.name} is for bound workqueues; kernel.workqueue makes {made[0]} unbound"
            report.at(("kernel", "completion"), text)
        return rules, workqueue
    unbound = tuple(dict.fromkeys((*workqueue.unbound, *COMPLETION_QUEUES)))
    workqueue = replace(workqueue, unbound=unbound)
    if policy.scope:
        rules = changed(rules, {"wq_affinity_scopes": True})
        workqueue = replace(workqueue, affinity_scope=policy.scope, affinity_strict=policy.strict)
    return rules, workqueue


def _workqueue(kernel: Kernel, rules: Rules, report: Report) -> WorkqueueSpec:
    asked = kernel.workqueue
    place: Path = ("kernel", "workqueue")
    if not rules.wq_affinity_scopes:
        for name in ("affinity_scope", "affinity_strict"):
            if getattr(asked, name) is not None:
                report.at_key((*place, name), f"{kernel.version} has no affinity scopes; 6.6 has")
    for index, name in enumerate(asked.unbound):
        if name not in WQ_NAMES:
            hint = did_you_mean(name, WQ_NAMES)
            report.at((*place, "unbound", index), f"no workqueue is called {name!r}{hint}")
    for name, limit in asked.max_active.items():
        if name not in WQ_NAMES:
            hint = did_you_mean(name, WQ_NAMES)
            report.at_key((*place, "max_active", name), f"no workqueue is called {name!r}{hint}")
        elif not 1 <= limit <= WQ_MAX_ACTIVE:
            report.at((*place, "max_active", name), f"{limit} is outside 1..{WQ_MAX_ACTIVE}")
    thresh = asked.cpu_intensive_thresh
    if thresh is not None and not rules.wq_cpu_intensive_auto:
        text = f"{kernel.version} does not look how long items run; 6.6 does"
        report.at_key((*place, "cpu_intensive_thresh"), text)
    return WorkqueueSpec(
        tuple(asked.unbound),
        asked.affinity_scope or "",
        bool(asked.affinity_strict),
        asked.cpumask or 0,
        tuple(asked.max_active.items()),
        asked.power_efficient,
        10_000_000 if thresh is None else thresh,
        asked.create_delay,
        asked.watchdog_thresh,
        asked.create_failures,
        asked.idle_timeout,
    )


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
