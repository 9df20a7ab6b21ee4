"""Which nodes a command goes to, and what is refused before it is given."""

import pytest

from emulator.boxfile.route import route
from emulator.config import load_box
from emulator.engine.plan import CommandError
from emulator.plain import spec_to_plain

PLAIN = spec_to_plain(load_box("hotplug-and-load").resolve())


@pytest.mark.parametrize(
    ("line", "nodes"),
    [
        ("cpu offline 3", [3]),
        ("cpu load 2 --percent 80", [2]),
        ("cpu kill of:fio", list(range(8))),
        ("renice fio -5", list(range(8))),
        ("renice 4711 19", list(range(8))),
        ("taskset 10000 0-3", list(range(8))),
        ("workload stop fio", list(range(8))),
        ("policy +preempt-kthread", list(range(8))),
        ("policy -kthread-stack", list(range(8))),
        ("completion round-robin:4", list(range(8))),
        ("chrt fio batch", list(range(8))),
        ("chrt 10000 fifo 50", list(range(9))),
        ("sysctl kernel.sched_nr_migrate=8", list(range(9))),
    ],
)
def test_commands_go_to_the_nodes_concerned_as_they_are(line: str, nodes: list[int]) -> None:
    words = line.split()
    assert route(words, PLAIN) == nodes
    assert words == line.split()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("cpu offline 8", "there is no CPU 8: the machine has CPUs 0-7"),
        ("cpu load 2 --percent 101", "101 percent of a CPU is more than there is"),
        ("cpu kill of:hog", "no task is called 'hog'; there are fio"),
        ("cpu melt 1", "no command 'cpu melt'"),
        ("renice fio 20", "'20' is no nice level: these go from -20 to 19"),
        ("renice foo 2", "no task is called 'foo'; there are fio"),
        ("chrt fio deadline", "no scheduling policy is called 'deadline'; there are normal, batch"),
        ("chrt fio fifo", "fifo takes a priority, 1 to 99"),
        ("chrt fio rr 100", "rr takes a priority, 1 to 99"),
        ("chrt fio batch 5", "batch takes no priority: `renice`"),
        ("chrt hog idle", "no task is called 'hog'"),
        ("policy kthread-stack", "it is +NAME or -NAME"),
        ("policy +kthread-stak", "did you mean kthread-stack"),
        ("policy +renice-kworkers", "`renice` the workers themselves"),
        ("policy +lb-rework", "more than a decision of one CPU (lb_group_types"),
        ("policy +no-push-for-kthreads", "say it in the box file"),
        ("policy +round-robin:2", "is a completion policy: `completion round-robin:2`"),
        ("completion round-robbin", "did you mean round-robin"),
        ("completion cache-pool", "the workqueues are made at boot"),
        ("workload stop 10000", "no task is called '10000'"),
        ("taskset fio 7-8", "the machine has CPUs 0-7"),
        ("make coffee", "is not one of: cpu offline CPU"),
        ("sysctl kernel.sched_wakeup_granularity_ns=2000000000", "outside 0..1000000000"),
        ("sysctl kernel.sched_nr_migrate=4294967295", "outside 0..2147483647"),
        ("sysctl kernel.sched_nr_migrat=1", "did you mean kernel.sched_nr_migrate"),
        ("sysctl kernel.sched_nr_migrate=many", "with a whole number"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(line: str, why: str) -> None:
    with pytest.raises(CommandError) as refused:
        route(line.split(), PLAIN)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("version", "line", "why"),
    [
        ("6.12", "sysctl kernel.sched_latency_ns=6000000", "EEVDF has no latency"),
        ("5.4", "sysctl kernel.sched_base_slice_ns=3000000", "only EEVDF has base_slice"),
    ],
)
def test_a_sysctl_that_the_kernel_does_not_have_is_refused(
    version: str, line: str, why: str
) -> None:
    spec = load_box("xfs-aio-4k-default", [f'kernel.version="{version}"']).resolve()
    with pytest.raises(CommandError) as refused:
        route(line.split(), spec_to_plain(spec))
    assert why in str(refused.value)


def test_an_interrupt_s_affinity_is_the_disk_s_and_cpu_0_records_it() -> None:
    plain = spec_to_plain(load_box("irq-affinity").resolve())
    assert route(["irq", "24", "affinity", "0-3"], plain) == [0, 9]


@pytest.mark.parametrize(
    ("box", "line", "why"),
    [
        ("irq-affinity", "irq 24 affinity 8", "CPUs 0-7"),
        ("irq-affinity", "irq 25 affinity 1", "no interrupt 25; there are 24 (virtio0-req.0)"),
        ("nvme-many-queues", "irq 26 affinity 1", "EIO: interrupt 26 (nvme0q3) is managed"),
        ("hotplug-and-load", "irq 24 affinity 1", "there are none of a disk"),
        ("irq-affinity", "irq x affinity 1", "is not one of"),
    ],
)
def test_an_interrupt_that_cannot_be_moved(box: str, line: str, why: str) -> None:
    with pytest.raises(CommandError) as caught:
        route(line.split(), spec_to_plain(load_box(box).resolve()))
    assert why in str(caught.value)


def test_with_threadirqs_interrupts_stay() -> None:
    spec = load_box("irq-affinity", ("kernel.threadirqs=true", "events=[]")).resolve()
    with pytest.raises(CommandError, match="its thread stays"):
        route(["irq", "24", "affinity", "1"], spec_to_plain(spec))


def test_a_policy_that_only_cfs_knows_is_refused_by_eevdf() -> None:
    plain = spec_to_plain(load_box("xfs-aio-512", ['kernel.version="6.12"']).resolve())
    with pytest.raises(CommandError, match="EEVDF decides without preempt_kthread_vdiff"):
        route(["policy", "+preempt-kthread"], plain)
    assert route(["policy", "-kthread-stack"], plain) == list(range(8))
