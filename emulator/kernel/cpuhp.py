"""CPU hotplug: ``kernel/cpu.c`` and what its states call, v5.4 (F.4, A.9, F.11).

Theory of operation
-------------------
Going down, the states of :data:`STEPS` are walked from the top.  The first ones run at the command's
time: the CPU is no longer *active*, so nothing new is placed here, and the domains are rebuilt
without it.  From 5.11 on the CPU then pushes each task away as it switches to it
(:func:`migration.balance_push`), and waits until it is empty.  The rest runs in the stopper, where no
interrupt or softirq is half done: queued tasks (up to 5.10; later none is left) are moved one
by one by the kernel's fallback order, then everything that stays behind asleep, in
flight or pending is handed to the lowest CPU still online (its *heir*), as the dead callbacks do.
The stopper then sleeps, the idle task finds the CPU offline, and the command is answered.

From then on the CPU executes nothing.  Its ghost (:func:`cpuhp_handover.ghost`) sends on what is still
addressed to it: tasks by the fallback order, requests and interrupts to the heir, mail along the way
that its task took.  For its worker pools it answers (:mod:`wq_hotplug`).  Coming up walks the same table
the other way.

A sleeping task is not touched: it keeps its previous CPU and its mask, and its next wakeup finds the
CPU not allowed (``select_task_rq()``).  It is only *owned* by the heir meanwhile.

Departures from the kernel: the steps take no emulated time of their own, the hotplug thread is no
task, and the other CPUs' stoppers are not held up by ``stop_machine()``.  The tunables are rescaled
when the balancer has rebuilt the domains.  Scheduler tags are moved with the requests; driver tags that nobody uses go back to the device.  A hardware queue is drained of what
its last CPU allocated, not of what others did that are offline already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    blk_mq_tag,
    core,
    cpuhp_handover,
    fair,
    frames,
    hrtimer,
    idle,
    irq_thread,
    kthread,
    rt,
    rt_bandwidth,
    smp,
    stop_machine,
    wq_hotplug,
    wq_pool,
)
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import DEQUEUE_DELAYED, DEQUEUE_SLEEP, PF_WQ_WORKER, Task
from emulator.topology import DomainMap
from emulator.types import NEVER, NOHZ_ENTER, RQF_ACTIVE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Stop work that takes the CPU down, in place of the CPU to push to.
TAKE_CPU_DOWN = -1

#: The state of block/mq:online, between the threads and the workqueues; only with rules.hctx_drain.
BLK_MQ_STATE = 146
BLK_MQ_NAME = "block/mq:online"
DRAIN_MS = 5

CPUHP_OFFLINE = 0
CPUHP_ONLINE = 195


# -- The steps: (state number, name, teardown, startup) -------------------------------------------


def sched_cpu_deactivate(cpu: Cpu) -> None:
    """Nothing new is placed here; the sched domains are rebuilt without this CPU."""
    cpu.active = False
    cpu.publish()
    tell_balancer(cpu, ["cpu_active", cpu.node_id, 0])


def sched_cpu_activate(cpu: Cpu) -> None:
    """The CPU takes part again."""
    cpu.active = True
    cpu.pushing = False
    cpu.publish()
    tell_balancer(cpu, ["cpu_active", cpu.node_id, 1])


def workqueue_offline_cpu(cpu: Cpu) -> None:
    """The pools lose their CPU: their workers go on wherever they may run."""
    wq_hotplug.unbind_workers(cpu)
    wq_hotplug.tell_unbound(cpu, online=False)


def workqueue_online_cpu(cpu: Cpu) -> None:
    """The pools are this CPU's again, their workers bound to it."""
    wq_hotplug.rebind_workers(cpu)
    wq_hotplug.tell_unbound(cpu, online=True)


def smpboot_park_threads(cpu: Cpu) -> None:
    """ksoftirqd is parked: off the queue, asleep."""
    kthread.park(cpu, cpu.ksoftirqd)


def smpboot_unpark_threads(cpu: Cpu) -> None:
    """ksoftirqd may be woken again; what was pending is not lost."""
    cpu.ksoftirqd.run.wait = WAIT_WORK


def sched_cpu_dying(cpu: Cpu) -> None:
    """Drain the wake list; ``migrate_tasks()``: move every queued task but the stopper.

    With balance_push none is left.
    """
    if cpu.wake_list:
        smp.sched_ttwu_pending(cpu)
    migrate_tasks(cpu)


def sched_cpu_starting(cpu: Cpu) -> None:
    """The runqueue is online."""
    fair.update_rq_clock(cpu.rq, cpu.now)


def tick_dying(cpu: Cpu) -> None:
    """The tick stops for good, and with it the CPU's part in nohz balancing."""
    cpu.tick_at = NEVER
    cpu.tick_stopped = False
    cpu.in_nohz_mask = False


def tick_starting(cpu: Cpu) -> None:
    """The tick starts on the common grid."""
    cpu.tick_stopped = False
    idle.start_tick(cpu)


def take_over_dead(cpu: Cpu) -> None:
    """The dead callbacks: another CPU takes what is left here (timers, block, softirq, tasks)."""
    cpuhp_handover.hand_over(cpu)


def nothing(cpu: Cpu) -> None:
    """No work in this direction."""


Step = tuple[int, str, Callable[["Cpu"], None], Callable[["Cpu"], None]]

#: In ascending order; down walks them from the end.
STEPS: tuple[Step, ...] = (
    (20, "blk_softirq_cpu_dead", take_over_dead, nothing),
    (83, "tick_broadcast", tick_dying, tick_starting),
    (90, "sched:starting", sched_cpu_dying, sched_cpu_starting),
    (142, "smpboot/threads:online", smpboot_park_threads, smpboot_unpark_threads),
    (150, "workqueue:online", workqueue_offline_cpu, workqueue_online_cpu),
    (194, "sched:active", sched_cpu_deactivate, sched_cpu_activate),
)
FIRST_AT_COMMAND = 4  # index into STEPS: these and later go down at the command's time


def walk(cpu: Cpu, steps: tuple[Step, ...], down: bool) -> None:
    """Run steps in their order for the direction, recording each."""
    target = CPUHP_OFFLINE if down else CPUHP_ONLINE
    for state, name, teardown, startup in reversed(steps) if down else steps:
        cpu.emit(tp.CPUHP_ENTER, cpu.node_id, target, state, cpu.sink.intern(name))
        (teardown if down else startup)(cpu)
        cpu.emit(tp.CPUHP_EXIT, cpu.node_id, state, state, 0)


# -- Down and up --------------------------------------------------------------------------------


def cpu_down(cpu: Cpu, kill: bool) -> str:
    """Start to take this CPU down; return why not, or "" if the answer comes when it is down."""
    number = cpu.node_id
    if cpu.killed:
        return f"refused: CPU {number} was killed"
    if not cpu.online:
        cpu.killed = kill
        return "done" if kill else f"refused: CPU {number} is offline"
    if not cpu.active:
        return f"refused: CPU {number} is going down"
    if heir(cpu) < 0:
        return f"refused: CPU {number} is the last one online"
    if number == 0:
        return "refused: CPU 0 cannot go offline on x86"
    walk(cpu, STEPS[FIRST_AT_COMMAND:], down=True)
    rq = cpu.rq
    cpu.pushing = rq.rules.balance_push
    if rq.rules.hctx_drain:
        blk_mq_hctx_notify_offline(cpu)
    if not cpu.draining and (not cpu.pushing or is_empty(cpu)):
        stop_machine.stop_one_cpu_nowait(cpu, (TAKE_CPU_DOWN, [], cpu.cause))
    elif cpu.pushing:
        # The hotplug thread takes the CPU: the current task is pushed when it is switched back to.
        asked = rq.need_resched
        core.resched_curr(cpu)
        core.smp_send_reschedule_here(cpu, asked)
    return ""


def blk_mq_hctx_notify_offline(cpu: Cpu) -> None:
    """``block/mq:online`` going down: hardware queues that lose their last CPU are drained (5.8)."""
    cpu.emit(tp.CPUHP_ENTER, cpu.node_id, CPUHP_OFFLINE, BLK_MQ_STATE, cpu.sink.intern(BLK_MQ_NAME))
    for q in cpu.queues:
        others = (n for n, hctx in enumerate(q.queue_of) if hctx == q.hctx and n != cpu.node_id)
        q.inactive = not any(affinity.cpu_flags(cpu, n) & RQF_ACTIVE for n in others)
    cpu.draining = True
    wait_for_requests(cpu)


def wait_for_requests(cpu: Cpu) -> None:
    """Look whether the queues are drained; if not, ``msleep(5)`` and look again."""
    if any(q.inactive and q.allocated for q in cpu.queues):
        due = cpu.jiffies() + blk_mq_tag.msecs_to_jiffies(cpu, DRAIN_MS) + 1
        hrtimer.add_jiffy_timer(cpu, due, hrtimer.WHEEL_DRAIN, 0)
        return
    cpu.draining = False
    cpu.emit(tp.CPUHP_EXIT, cpu.node_id, BLK_MQ_STATE, BLK_MQ_STATE, 0)


def drain_on(cpu: Cpu) -> None:
    """The sleep of the drain is over: go down if nothing is left, look again later if not."""
    wait_for_requests(cpu)
    if not cpu.draining and (not cpu.pushing or is_empty(cpu)):
        stop_machine.queue_stop_work(cpu, [TAKE_CPU_DOWN, [], cpu.cause])


def is_empty(cpu: Cpu) -> bool:
    """Whether nothing is left to run or to be woken here."""
    rq = cpu.rq
    return rq.curr is rq.idle and not rq.nr_running and not cpu.wake_list


def cpu_wait_empty(cpu: Cpu) -> None:
    """``sched_cpu_wait_empty()``: nothing is left to push, so the stopper takes the CPU down (5.11)."""
    if cpu.online and not cpu.draining and is_empty(cpu):
        stop_machine.queue_stop_work(cpu, [TAKE_CPU_DOWN, [], cpu.cause])


def take_cpu_down(cpu: Cpu) -> None:
    """``take_cpu_down()`` in the stopper, and the dead callbacks; the stopper then goes to sleep."""
    cpu.online = False
    walk(cpu, STEPS[:FIRST_AT_COMMAND], down=True)
    for push_cpu, _env, _cause in cpu.stop_works:
        if push_cpu >= 0:
            cpuhp_handover.stop_aborted(cpu, push_cpu)
    cpu.stop_works.clear()
    cpu.publish()
    assert not cpu.delayed_wakes, cpu.story("a delayed wakeup waits on a dead CPU")
    assert cpu.rq.nr_running == 1, cpu.story("tasks are left on a dead CPU's queue")
    assert all(is_own_thread(cpu, p) for p in cpu.tasks.values()), cpu.story(
        "tasks are left behind"
    )


def idle_dead(cpu: Cpu) -> None:
    """``cpuhp_report_idle_dead()``: the idle task is the last; whoever waits for this is told."""
    cpu.irqs_on = False
    cpu.halt()
    cpu.publish()
    words, place, kill, answer = cpu.going_down
    cpu.going_down = []
    cpu.killed = bool(kill)
    cpu.answer(words, answer, place)


def cpu_up(cpu: Cpu) -> str:
    """Bring this CPU back; return how it went."""
    number = cpu.node_id
    if cpu.killed:
        return f"refused: CPU {number} was killed"
    if cpu.going_down:
        return f"refused: CPU {number} is going down"
    if cpu.online:
        return f"refused: CPU {number} is online"
    cpu.online = True
    cpu.irqs_on = True
    walk(cpu, STEPS, down=False)
    for q in cpu.queues:
        q.inactive = False
        tell_device(cpu, q, 1)
        blk_mq_tag.ask_for_tags(cpu, q)
    cpu.start(frames.IDLE_ENTRY, cpu.costs.idle_entry_ns)
    if cpu.stalled:
        cpu.f_end = cpu.costs.idle_entry_ns  # without the host: the time left
    return "done"


def heir(cpu: Cpu) -> int:
    """Return the lowest other CPU that is active as far as this CPU knows, or -1."""
    for other in range(cpu.nr_cpus):
        if other != cpu.node_id and affinity.cpu_flags(cpu, other) & RQF_ACTIVE:
            return other
    return -1


def tell_balancer(cpu: Cpu, words: list[Any]) -> None:
    """Send the balancer a command of its own."""
    cpu.send(
        cpu.bal_node,
        messages.COMMAND,
        (words,),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


def domains_rebuilt(cpu: Cpu, facts: list[Any]) -> None:
    """The balancer rebuilt the domains: the tunables scale with the number of CPUs (A.3)."""
    active_mask = int(facts[0])
    cpu.domains = DomainMap(cpu.spec.machine, cpu.rq.rules, active_mask)
    if cpu.smt_siblings:
        cpu.idle_cores = cpu.now << 1  # sd_llc_shared is a new one, all zero
        cpu.publish()
    fair.update_sysctl(cpu.rq.tun, active_mask.bit_count())
    if cpu.online and cpu.adopter >= 0 and active_mask >> cpu.node_id & 1:
        cpu.adopter = -1
        if cpu.in_nohz_mask:
            # It had stopped its tick before it had domains, when the balancer would not hear of it.
            cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_ENTER, cpu.now))


# -- Leaving ------------------------------------------------------------------------------------


def migrate_tasks(cpu: Cpu) -> None:
    """Move queued tasks by ``select_fallback_rq()``; rescuers of the pools stay, asleep."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    rt_bandwidth.rq_offline_rt(cpu)
    while rq.rt.queue or rq.cfs.nr_running:
        p = rq.rt.queue[0] if rq.rt.queue else rq.cfs.tree[0][2]
        if p.sched_delayed:
            rq.fair.dequeue_task(rq, p, DEQUEUE_SLEEP | DEQUEUE_DELAYED)  # as the pick would
            continue
        if irq_thread.is_irq_thread(cpu, p):
            irq_thread.park(cpu, p)
            continue
        if p.flags & PF_WQ_WORKER and not wq_pool.is_unbound(p):
            wq_hotplug.park_rescuer(cpu, p)
            continue
        target = affinity.select_fallback_rq(cpu, p, cpu.node_id)
        rt.class_of(rq, p).dequeue_task(rq, p, 0)
        core.set_task_cpu(cpu, p, target, tp.MIGRATE_HOTPLUG)
        core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, 0, cpu.node_id)


def tell_device(cpu: Cpu, q: BlockQueue, online: int) -> None:
    """A device with vectors is told that this CPU goes or comes: its interrupts are moved."""
    if q.vectored:
        effect_ns = cpu.now + cpu.costs.coherence_ns
        args = (online,)
        device = cpu.device_nodes[q.index]
        cpu.send(device, messages.CPU_STATE, args, effect_ns, cpu.costs.coherence_ns)


def is_own_thread(cpu: Cpu, p: Task) -> bool:
    """Whether a task is one of the CPU's own threads, which stay with it."""
    if p is cpu.rq.stop or p is cpu.ksoftirqd or irq_thread.is_irq_thread(cpu, p):
        return True
    return bool(p.flags & PF_WQ_WORKER) and not wq_pool.is_unbound(p)


def reply_ns(cpu: Cpu) -> int:
    """Return how soon a CPU that is sent something can make itself felt here."""
    return min(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns)
