"""One fair runqueue for the tests of rules: made of a version or a policy, driven by hand."""

from __future__ import annotations

from emulator.kernel import fair
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    ENQUEUE_WAKEUP,
    PF_KTHREAD,
    Rq,
    Task,
    Tunables,
)
from emulator.rules import FEATURES, Rules, changed, policy_switches, rules_of
from emulator.types import KernelSpec

MS = 1_000_000


def version_rq(version: str, nr_online: int = 8, cpu: int = 0, **rules: bool) -> Rq:
    """Return an empty runqueue of a version's kernel, with some rules set otherwise."""
    kernel = KernelSpec(version, FEATURES[version], {}, rules=changed(rules_of(version), rules))
    return Rq(cpu, fair.tunables(kernel, nr_online), fair.FAIR_SCHED_CLASS, kernel.rules)


def policy_rq(policy: str, nr_online: int = 8) -> Rq:
    """Return an empty runqueue of a 5.4 with one policy (none: ""), tuned as in the thread."""
    tun = Tunables()
    fair.update_sysctl(tun, nr_online)
    fair.sched_proc_update_handler(tun, "sched_min_granularity_ns", 10 * MS)
    fair.sched_proc_update_handler(tun, "sched_wakeup_granularity_ns", 15 * MS)
    rules = changed(Rules(), policy_switches(policy)) if policy else Rules()
    return Rq(0, tun, fair.FAIR_SCHED_CLASS, rules)


def make_task(pid: int, nice: int = 0, policy: int = 0) -> Task:
    """Return a task that may run anywhere and has no history."""
    p = Task(pid, f"task{pid}", nice)
    p.policy = policy
    p.nr_cpus_allowed = 8
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    return p


def make_kthread(pid: int, nice: int = 0) -> Task:
    """Return a kthread bound to one CPU."""
    p = make_task(pid, nice)
    p.flags |= PF_KTHREAD
    p.nr_cpus_allowed = 1
    return p


def queue(rq: Rq, *tasks: Task) -> None:
    """Start tasks on a runqueue."""
    for p in tasks:
        fair.post_init_entity_util_avg(rq, p)
        fair.enqueue_task_fair(rq, p, 0)


def switch(rq: Rq) -> Task:
    """``schedule()`` of a task that is still runnable, or of the idle task."""
    rq.need_resched = False
    following = fair.pick_next_task_fair(rq, rq.curr)
    assert following is not None
    rq.curr = following
    return following


def running(rq: Rq, p: Task, vruntime: int) -> None:
    """Make ``p`` the only task, running, with ``vruntime`` as min_vruntime too."""
    queue(rq, p)
    assert switch(rq) is p
    p.vruntime = vruntime
    rq.cfs.min_vruntime = vruntime


def asleep(rq: Rq, p: Task, vruntime: int) -> None:
    """Give a task the state of one that went to sleep here with this vruntime."""
    fair.post_init_entity_util_avg(rq, p)
    p.vruntime = vruntime


def block(rq: Rq) -> None:
    """``schedule()`` of a task that sleeps: pick another, or go idle."""
    prev = rq.curr
    fair.dequeue_task_fair(rq, prev, DEQUEUE_SLEEP)
    rq.need_resched = False
    following = fair.pick_next_task_fair(rq, prev)
    if following is None:
        fair.put_prev_task_fair(rq, prev)
        following = rq.idle
    rq.curr = following


def wake(rq: Rq, p: Task, now_ns: int) -> int:
    """Wake a task on the CPU where it slept, and return what the preemption test says."""
    fair.update_rq_clock(rq, now_ns)
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    return fair.check_preempt_wakeup(rq, p, 0)


def tick(rq: Rq, now_ns: int) -> int:
    """Do a tick, and return what its preemption test says."""
    fair.update_rq_clock(rq, now_ns)
    return fair.task_tick_fair(rq, rq.curr)
