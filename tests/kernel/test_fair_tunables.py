"""The fair class's sysctls: scaling with the CPUs, writes and their bounds."""

from __future__ import annotations

import pytest

from emulator.kernel.fair_tunables import (
    sched_feat_set,
    sched_proc_update_handler,
    tunables,
    update_sysctl,
)
from emulator.kernel.sched import Tunables
from emulator.types import KernelSpec

MS = 1_000_000


def make_tunables(nr_online: int = 8) -> Tunables:
    tun = Tunables()
    update_sysctl(tun, nr_online)
    return tun


def tune(tun: Tunables) -> None:
    """The thread's tuning."""
    sched_proc_update_handler(tun, "kernel.sched_min_granularity_ns", 10 * MS)
    sched_proc_update_handler(tun, "kernel.sched_wakeup_granularity_ns", 15 * MS)


@pytest.mark.parametrize(
    ("cpus", "latency", "min_gran", "wakeup"),
    [
        (1, 6_000_000, 750_000, 1_000_000),
        (2, 12_000_000, 1_500_000, 2_000_000),
        (3, 12_000_000, 1_500_000, 2_000_000),
        (4, 18_000_000, 2_250_000, 3_000_000),
        (7, 18_000_000, 2_250_000, 3_000_000),
        (8, 24_000_000, 3_000_000, 4_000_000),
        (64, 24_000_000, 3_000_000, 4_000_000),
    ],
)
def test_example_A_3_scaling(cpus: int, latency: int, min_gran: int, wakeup: int) -> None:
    tun = make_tunables(cpus)
    assert (tun.latency, tun.min_granularity, tun.wakeup_granularity) == (latency, min_gran, wakeup)
    assert tun.nr_latency == 8


def test_example_A_3_thread_tuning() -> None:
    tun = make_tunables()
    tune(tun)
    assert (tun.min_granularity, tun.wakeup_granularity, tun.nr_latency) == (10 * MS, 15 * MS, 3)
    update_sysctl(tun, 7)
    assert (tun.latency, tun.min_granularity) == (18 * MS, 7_500_000)
    assert tun.wakeup_granularity == 11_250_000
    assert tun.nr_latency == 3, "hotplug does not touch it"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sched_latency_ns", 99_999),
        ("sched_latency_ns", 1_000_000_001),
        ("sched_min_granularity_ns", 0),
        ("sched_wakeup_granularity_ns", -1),
        ("sched_tunable_scaling", 3),
        ("sched_migration_cost_ns", -2),
        ("sched_nothing", 1),
    ],
)
def test_a_refused_sysctl_changes_nothing(name: str, value: int) -> None:
    tun = make_tunables()
    before = tun.pack()
    with pytest.raises(ValueError, match=name):
        sched_proc_update_handler(tun, f"kernel.{name}", value)
    assert tun.pack() == before


def test_sysctls_at_their_bounds() -> None:
    tun = make_tunables()
    sched_proc_update_handler(tun, "sched_wakeup_granularity_ns", 0)
    sched_proc_update_handler(tun, "sched_min_granularity_ns", 100_000)
    sched_proc_update_handler(tun, "sched_migration_cost_ns", -1)
    assert (tun.wakeup_granularity, tun.migration_cost, tun.nr_latency) == (0, -1, 240)


def test_tunable_scaling_keeps_the_values_until_the_next_hotplug() -> None:
    tun = make_tunables()
    sched_proc_update_handler(tun, "sched_tunable_scaling", 0)
    assert (tun.latency, tun.normalized_latency) == (24 * MS, 24 * MS)
    sched_proc_update_handler(tun, "sched_tunable_scaling", 2)
    update_sysctl(tun, 4)
    assert tun.latency == 12 * MS


def test_tunables_of_a_kernel_spec() -> None:
    kernel = KernelSpec(
        "5.4",
        {"LAST_BUDDY": False, "TTWU_QUEUE": True},
        {"kernel.sched_min_granularity_ns": 10 * MS, "vm.dirty_ratio": 20},
    )
    tun = tunables(kernel, 8)
    assert (tun.last_buddy, tun.min_granularity, tun.nr_latency) == (False, 10 * MS, 3)
    with pytest.raises(ValueError, match="HRTICK"):
        sched_feat_set(tun, "HRTICK", True)
