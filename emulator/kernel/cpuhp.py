"""CPU hotplug: ``kernel/cpu.c`` and what its states call, v5.4 (F.4, A.9, F.11).

Theory of operation
-------------------
Going down, the states of :data:`STEPS` are walked from the top.  The first ones run at the command's
time: the CPU is no longer *active*, so nothing new is placed here, and the domains are rebuilt
without it.  From 5.11 on the CPU then pushes each task away as it switches to it
(:func:`migration.balance_push`), and waits until it is empty.  The rest runs in the stopper, where no
interrupt or softirq is half done: queued tasks (up to 5.10; later only workers are left) are moved one
by one by the kernel's fallback order, then everything that stays behind asleep, in
flight or pending is handed to the lowest CPU still online (its *heir*), as the dead callbacks do.
The stopper then sleeps, the idle task finds the CPU offline, and the command is answered.

From then on the CPU executes nothing.  Its ghost (:func:`ghost`) sends on what is still addressed to
it: tasks by the fallback order, requests and interrupts to the heir, mail along the way that its task
took.  Coming up walks the same table the other way.

A sleeping task is not touched: it keeps its previous CPU and its mask, and its next wakeup finds the
CPU not allowed (``select_task_rq()``).  It is only *owned* by the heir meanwhile.

Departures from the kernel: the steps take no emulated time of their own, the hotplug thread is no
task, and the other CPUs' stoppers are not held up by ``stop_machine()``.  A pool's workers never leave
their CPU: where the kernel gives up or widens their mask, they run out what they have here and stay.  The tunables are rescaled when the balancer has rebuilt the
domains.  The work items of a dead CPU's pools join the pools of the heir, where the kernel lets the
dead pools' unbound workers run them on any CPU; the workers stay asleep, bound.  An item whose
function sleeps starts again on the heir with what it has not done.  Scheduler tags are moved with
the requests; driver tags that nobody uses go back to the device.  A hardware queue is drained of what
its last CPU allocated, not of what others did that are offline already.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    blk_mq,
    blk_mq_tag,
    core,
    driver,
    fair,
    frames,
    holdings,
    hrtimer,
    idle,
    irq_thread,
    kthread,
    load_balance,
    mail,
    rt,
    rt_bandwidth,
    smp,
    softirq,
    stop_machine,
    workqueue,
    wq_hotplug,
    wq_pool,
)
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.process import MAIL_WAITS, WAIT_WORK, unpack_task
from emulator.kernel.request import Request
from emulator.kernel.sched import DEQUEUE_DELAYED, DEQUEUE_SLEEP, PF_WQ_WORKER, Task
from emulator.tags import FREED, LEASED
from emulator.topology import DomainMap
from emulator.types import NEVER, NOHZ_ENTER, RQF_ACTIVE, STOP_ABORTED, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Stop work that takes the CPU down, in place of the CPU to push to.
TAKE_CPU_DOWN = -1

#: Messages to a CPU that is offline that its heir acts on in its place.
PASSED_ON = (messages.ADOPT, messages.INTERRUPT, messages.DRIVER_EVENT, messages.TIMEOUT)

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
    """The pools lose their CPU; their items are handed over with the rest."""
    for pool in cpu.pools:
        pool.disassociated = True


def workqueue_online_cpu(cpu: Cpu) -> None:
    """The pools are this CPU's again, their workers bound to it."""
    for pool in cpu.pools:
        pool.disassociated = False


def smpboot_park_threads(cpu: Cpu) -> None:
    """ksoftirqd is parked: off the queue, asleep."""
    kthread.park(cpu, cpu.ksoftirqd)


def smpboot_unpark_threads(cpu: Cpu) -> None:
    """ksoftirqd may be woken again; what was pending is not lost."""
    cpu.ksoftirqd.run.wait = WAIT_WORK


def sched_cpu_dying(cpu: Cpu) -> None:
    """Drain the wake list; ``migrate_tasks()``: move every queued task but the stopper.

    With balance_push only workers are left, which stay.
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
    hand_over(cpu)


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
            stop_aborted(cpu, push_cpu)
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
    """Move queued tasks by ``select_fallback_rq()``; idle workers of the pools stay, asleep."""
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
            wq_hotplug.park_worker(cpu, p)
            continue
        target = affinity.select_fallback_rq(cpu, p, cpu.node_id)
        rt.class_of(rq, p).dequeue_task(rq, p, 0)
        core.set_task_cpu(cpu, p, target, tp.MIGRATE_HOTPLUG)
        core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, 0, cpu.node_id)


def hand_over(cpu: Cpu) -> None:
    """Give the heir everything that is left: sleepers, timers, requests, work, finished requests."""
    target = heir(cpu)
    assert target >= 0, cpu.story("the last CPU dies")
    cpu.adopter = target
    effect_ns = cpu.now + cpu.costs.ipi_ns
    sleepers = [p for p in cpu.tasks.values() if not is_own_thread(cpu, p)]
    for p in sleepers:
        cpu.rq.fair.migrate_task_rq(cpu.rq, p, True)
        cpu.depart(p, target, effect_ns)
    for rq, _tagged in holdings.all_requests(cpu):
        readdress(cpu, rq)
    for item in holdings.items(cpu):
        if wq_pool.carries_request(item[1]):
            readdress(cpu, item[3])
    completions = take_completions(cpu)
    for irq in cpu.irqs:
        if irq[0] == frames.IRQ_VECTOR:
            pass_on(cpu, target, messages.INTERRUPT, tuple(irq[1]))
    for interrupt in irq_thread.take_unhandled(cpu):
        pass_on(cpu, target, messages.INTERRUPT, interrupt)
    items = [wq_hotplug.take_items(cpu, pool) for pool in cpu.pools]
    done = [*cpu.done_list, *cpu.call_done]
    queues = [take_queue(cpu, index, target) for index in range(len(cpu.queues))]
    state = [
        cpu.node_id,
        completions,
        [rq.pack() for rq in cpu.inflight.values()],
        [[t[0], t[2], t[3]] for t in sorted(cpu.timers, key=lambda t: t[:2]) if outlives(cpu, t)],
        [[t[0], t[2], t[3]] for t in cpu.jiffy_timers],
        [rq.pack() for rq in done],
        items,
        queues,
        cpu.flushers,
    ]
    forget(cpu)
    tasks = [[p.pid, p] for p in sleepers]
    cpu.send(target, messages.ADOPT, (tasks, state), effect_ns, reply_ns(cpu))


def forget(cpu: Cpu) -> None:
    """Nothing of what was handed over is left here."""
    for box in (cpu.inflight, cpu.timers, cpu.jiffy_timers, cpu.done_list, cpu.call_done, cpu.irqs):
        box.clear()
    cpu.flushers = []
    cpu.rq.rt.period_active = False  # its timer is gone
    cpu.ipis = 0
    cpu.softirq_pending = 0
    cpu.nohz_flags = 0


def outlives(cpu: Cpu, timer: tuple[int, int, int, Any]) -> bool:
    """Whether a timer is of use to the heir: an IPI to this CPU or a sleep of its threads is not."""
    kind, arg = timer[2], timer[3]
    return kind == hrtimer.TIMER_REQUEST or (
        kind == hrtimer.TIMER_SLEEP and arg[0] not in cpu.tasks
    )


def take_completions(cpu: Cpu) -> list[list[int]]:
    """Take the completions to come, whose timers move with the dead CPU's, and those that wait.

    What the device sends for a request that it was asked about is then of no use here.
    """
    announced = [m for m in cpu.inbox if m[4] == messages.COMPLETION and len(m[5]) > 2]
    cpu.inbox[:] = sorted(m for m in cpu.inbox if m not in announced)
    known = {message[5][0] for message in announced}
    pending = {irq[1][0]: irq[1][1] for irq in cpu.irqs if irq[0] == frames.IRQ_DEVICE}
    completions: list[list[int]] = []
    for cookie, rq in cpu.inflight.items():
        done_ns = cpu.now if cookie in pending else rq.done_ns
        completions.append([done_ns, cookie, pending.get(cookie, 0)])
        if cookie not in known and cookie not in pending:
            cpu.handed[cookie] = cpu.adopter
    return completions


def take_queue(cpu: Cpu, index: int, target: int) -> list[Any]:
    """Take what this CPU has of a disk's queue; its free tags go back to the device."""
    q = cpu.queues[index]
    driver.ring_doorbells(cpu, q)
    busy, q.busy = q.busy, []
    waiting = q.elevator.drain() if q.elevator is not None else []
    moved = 0
    if q.elevator is not None:
        for rq in (*busy, *waiting):
            if rq.ctx_cpu == cpu.node_id:
                rq.ctx_cpu = target  # its scheduler tag with it
                moved += 1
    blk_mq_tag.return_tags(cpu, q, q.lease, cpu.node_id)
    tell_device(cpu, q, 0)
    state = [
        [rq.pack() for rq in busy],
        [rq.pack() for rq in waiting],
        moved,
        q.sbq.take(),
    ]
    q.allocated -= moved
    q.lease = 0
    q.tag_mode = LEASED
    q.tag_asked = q.run_queued = q.restart = q.delayed = False
    return state


def tell_device(cpu: Cpu, q: BlockQueue, online: int) -> None:
    """A device with vectors is told that this CPU goes or comes: its interrupts are moved."""
    if q.vectored:
        effect_ns = cpu.now + cpu.costs.coherence_ns
        args = (online,)
        device = cpu.device_nodes[q.index]
        cpu.send(device, messages.CPU_STATE, args, effect_ns, cpu.costs.coherence_ns)


def readdress(cpu: Cpu, rq: Request) -> None:
    """Let the end of a request be told where its owner went from here, not to this dead CPU."""
    moves, target = cpu.forward.get(rq.pid, (-1, -1))
    if moves > rq.moves:
        rq.home = target


def is_own_thread(cpu: Cpu, p: Task) -> bool:
    """Whether a task is one of the CPU's own threads, which stay with it."""
    if p is cpu.rq.stop or p is cpu.ksoftirqd or irq_thread.is_irq_thread(cpu, p):
        return True
    return bool(p.flags & PF_WQ_WORKER) and not wq_pool.is_unbound(p)


def reply_ns(cpu: Cpu) -> int:
    """Return how soon a CPU that is sent something can make itself felt here."""
    return min(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns)


# -- The ghost ----------------------------------------------------------------------------------


def ghost(cpu: Cpu, message: Message) -> bool:
    """Send on what came for a CPU that is offline; False: it is handled as if it were online."""
    op, args = message[4], message[5]
    if op == messages.ATTACH:
        for _pid, data in args[0]:
            p = unpack_task(data, cpu.make_program)
            load_balance.arrive(cpu, p)
            redirect(cpu, p, 0)
    elif op == messages.CALL_COMPLETE:
        rq = Request.unpack(args[0])
        readdress(cpu, rq)
        pass_on(cpu, cpu.adopter, op, (rq.pack(), *args[1:]))
    elif op == messages.QUEUE_WORK:
        item = wq_pool.unpack_item(args[0])
        if wq_pool.carries_request(item[1]):
            readdress(cpu, item[3])
        pass_on(cpu, cpu.adopter, op, (wq_pool.pack_item(item), *args[1:]))
    elif op in PASSED_ON:
        pass_on(cpu, cpu.adopter, op, args)
    elif op == messages.TAG_GRANT:
        blk_mq_tag.return_tags(cpu, cpu.queues[args[0]], args[1], cpu.node_id)
    elif op == messages.TAG_FREED:
        index, _waker_pid, _cause, nr, request = args
        cpu.queues[index].allocated -= request
        if nr:
            blk_mq_tag.return_tags(cpu, cpu.queues[index], nr, cpu.node_id, FREED)
    elif op == messages.STOP:
        stop_aborted(cpu, args[0])
    elif op != messages.NOHZ_KICK:
        return False
    return True


def pass_on(cpu: Cpu, target: int, op: int, args: tuple[Any, ...]) -> None:
    """Send a message on to another CPU."""
    cpu.send(target, op, args, cpu.now + cpu.costs.ipi_ns, reply_ns(cpu))


def redirect(cpu: Cpu, p: Task, wake_flags: int) -> None:
    """A task arrives at a CPU that has gone meanwhile: it goes on to where it may run."""
    target = affinity.select_fallback_rq(cpu, p, cpu.node_id)
    p.run.cause = cpu.emit(
        tp.SCHED_MIGRATE_TASK, p.pid, p.prio, cpu.node_id, target, tp.MIGRATE_HOTPLUG
    )
    p.nr_migrations += 1
    p.cpu = p.wake_cpu = target
    core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, wake_flags, cpu.node_id)
    mail.deliver_held(cpu, p.pid)


def stop_aborted(cpu: Cpu, push_cpu: int) -> None:
    """``cpu_stop_queue_work()`` of a stopper that is parked: the work is not done."""
    cpu.send(
        cpu.bal_node,
        messages.STOPPED,
        (push_cpu, STOP_ABORTED, 0),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


# -- Taking over --------------------------------------------------------------------------------


def adopt(cpu: Cpu, tasks: list[list[Any]], state: list[Any]) -> None:
    """Take over what a dead CPU left (at the CPU that runs the dead callbacks)."""
    dead, completions, requests, timers, wheel, done, items, queues, flushers = state
    cpu.adopted = True
    cpu.emit(tp.PRINTK, cpu.sink.intern(f"smpboot: CPU {dead} is now offline"))
    for data in requests:
        rq = Request.unpack(data)
        cpu.inflight[rq.cookie] = rq
    for done_ns, cookie, status in completions:
        stamp = max(done_ns, cpu.now)
        completion = driver.announced_completion(cpu, stamp, cpu.inflight[cookie], status)
        heapq.heappush(cpu.inbox, completion)
        cpu.timer_armed(stamp)
    for expiry, kind, arg in timers:
        cpu.add_timer(max(expiry, cpu.now), kind, arg)
    for jiffy, kind, arg in wheel:
        hrtimer.add_jiffy_timer(cpu, jiffy, kind, arg)
    cpu.done_list += [Request.unpack(data) for data in done]
    for index, taken in enumerate(items):
        wq_hotplug.give_items(cpu, cpu.pools[index], taken)
    cpu.flushers += [list(flusher) for flusher in flushers]
    cpu.irqs.append((frames.IRQ_IPI, "adopt", cpu.costs.ipi_handler_ns))
    for _pid, data in tasks:
        adopt_sleeper(cpu, unpack_task(data, cpu.make_program))
    for index, queue in enumerate(queues):
        give_queue(cpu, index, queue)


def adopt_sleeper(cpu: Cpu, p: Task) -> None:
    """Own a sleeping task; where it last ran stays as it was."""
    load_balance.arrive(cpu, p)
    if not cpu.rq.rules.eevdf:
        p.vruntime += cpu.rq.cfs.min_vruntime  # it was made relative when it left
    if p.run.wait in MAIL_WAITS and p.run.remote_ios:
        cpu.mail_sleepers[p.pid] = 1
    mail.deliver_held(cpu, p.pid)


def give_queue(cpu: Cpu, index: int, state: list[Any]) -> None:
    """Take over a dead CPU's part of a disk's queue (``blk_mq_hctx_notify_dead()``)."""
    busy, waiting, allocated, waiters = state
    q = cpu.queues[index]
    q.allocated += allocated
    q.busy += [Request.unpack(data) for data in busy]
    for data in waiting:
        assert q.elevator is not None
        q.elevator.insert(Request.unpack(data), cpu.now)
    blk_mq_tag.adopt_waiters(cpu, q, waiters)


def adopted(cpu: Cpu) -> None:
    """In the interrupt that tells of a dead CPU: start what it left pending."""
    if cpu.done_list:
        softirq.raise_softirq(cpu, softirq.BLOCK)
    for q in cpu.queues:
        blk_mq.run_hw_queue_async(cpu, q)
    for pool in cpu.pools:
        if wq_pool.need_more_worker(pool):
            workqueue.wake_up_worker(cpu, pool)
