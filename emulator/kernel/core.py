"""The scheduler core: ``kernel/sched/core.c``, v5.4.

Theory of operation
-------------------
:func:`schedule` starts the frame of a reschedule; at its end :func:`schedule_end` takes the
decision (``__schedule()``): the previous task leaves the queue if it blocked, the classes are asked
in order stop, real time, fair, idle, and the switch is made.  A CPU without a fair task first tries to find
one elsewhere (:mod:`newidle`).

A wakeup (:func:`try_to_wake_up`) runs as a subroutine of whatever wakes.  A bound task is enqueued
after ``ttwu_ns``.  For a movable task ``select_task_rq_ns`` passes before the CPU is chosen, on what
this CPU can know of the others then, and ``ttwu_activate_ns`` more until it is enqueued there.

Departures from the kernel: a task that blocks stays put until its switch is over: a wakeup of it
by another CPU waits for that, as the waker would spin on ``p->on_cpu`` (from 5.8 on it leaves the task
on the wake list instead).  A task woken from a CPU that shares no cache reaches the target's wake list
(:mod:`smp`) when the waker is done with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    cpuhp,
    fair,
    fair_kthread,
    frames,
    hrtimer,
    idle,
    idle_sibling,
    io_uring,
    migration,
    newidle,
    placement,
    rt,
    rt_bandwidth,
    smp,
    stop_machine,
    workqueue,
)
from emulator.kernel.process import MAIL_WAITS, WAIT_NONE, WAIT_TIMER
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    ENQUEUE_DELAYED,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    FAIR_CLASS,
    PF_KTHREAD,
    PF_WQ_WORKER,
    RT_CLASS,
    STOP_CLASS,
    TASK_WAKING,
    WF_MIGRATED,
    Task,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Frames of a wakeup under way.
WAKEUP_FRAMES = (frames.TTWU, frames.TTWU_SELECT, frames.TTWU_ACTIVATE)

# -- Reschedule ---------------------------------------------------------------------------------


def resched_curr(cpu: Cpu) -> None:
    """Ask this CPU's current task to give way at its next preemption point."""
    rq = cpu.rq
    if rq.need_resched:
        return
    rq.need_resched = True


def schedule(cpu: Cpu) -> None:
    """Start a reschedule; the current task's ``run`` says where it goes on afterwards."""
    assert not cpu.stack, cpu.story("schedule() inside an interrupt")
    rq = cpu.rq
    cpu.irqs_on = False
    cpu.rcu.quiescent = True  # rcu_note_context_switch()
    # The clock is read here, so the time of the switch is the next task's.
    rq.skip_clock_update <<= 1
    fair.update_rq_clock(rq, cpu.now)
    ns = cpu.costs.context_switch_ns
    blocks = rq.curr.state != tp.TASK_RUNNING and rq.curr.on_rq
    if rq.rt.queue:
        ns += pick_rt_ns(cpu, blocks)
    elif rq.cfs.nr_running > blocks or cpu.delayed_wakes:
        ns += cpu.costs.pick_fair_ns
    cpu.start(frames.SCHEDULE, ns)


def pick_rt_ns(cpu: Cpu, blocks: int) -> int:
    """Return what picking costs with real-time tasks queued: nothing, unless a fair one is next."""
    rq = cpu.rq
    last = blocks and rq.curr.sched_class == RT_CLASS and len(rq.rt.queue) == 1
    if rq.rt.rt_throttled or last:
        return cpu.costs.pick_fair_ns if rq.cfs.nr_running or cpu.delayed_wakes else 0
    return 0


def preempt_schedule_irq(cpu: Cpu) -> None:
    """Reschedule when an interrupt returns to user space: the frame on top is left as it is."""
    run = cpu.rq.curr.run
    run.kind = cpu.f_kind
    run.left = cpu.f_end - cpu.now
    run.arg = cpu.f_arg
    schedule(cpu)


def schedule_end(cpu: Cpu, _arg: object) -> None:
    """``__schedule()``: take the previous task off if it blocked, pick the next, switch."""
    rq = cpu.rq
    prev = rq.curr
    if prev is not rq.idle and prev.state != tp.TASK_RUNNING and prev.on_rq:
        if prev.sched_class == STOP_CLASS:
            stop_machine.dequeue_task_stop(cpu, prev)
        elif prev.sched_class == RT_CLASS:
            rt.dequeue_task_rt(rq, prev, DEQUEUE_SLEEP)
        elif prev.state == tp.TASK_DEAD:
            rq.fair.dequeue_task(rq, prev, DEQUEUE_SLEEP | DEQUEUE_SPECIAL)
        else:
            rq.fair.dequeue_task(rq, prev, DEQUEUE_SLEEP)
        prev.nvcsw += 1
    elif prev is not rq.idle and prev.state == tp.TASK_RUNNING:
        prev.nivcsw += 1
    if cpu.delayed_wakes:
        queue_delayed_wakes(cpu)
    pick_next_task(cpu, prev)


def pick_next_task(cpu: Cpu, prev: Task) -> None:
    """Ask the classes in order; the switch follows at once, or after a newidle balance."""
    rq = cpu.rq
    if prev.sched_class == RT_CLASS:
        rt.update_curr_rt(rq)  # it may have used up the class's time
    if rq.stop_queued and rq.stop is not None:
        put_prev_task(cpu, prev)
        context_switch(cpu, prev, rq.stop)
        return
    if rq.rt.queue and rq.rt.runnable():
        put_prev_task(cpu, prev)
        following = rt.pick_next_task_rt(rq, prev)
        assert following is not None
        context_switch(cpu, prev, following)
        return
    if rq.cfs.nr_running:
        if prev.sched_class == RT_CLASS:
            put_prev_task(cpu, prev)
        following = rq.fair.pick_next_task(rq, prev)
        if following is not None:
            context_switch(cpu, prev, following)
            return
        # Only delayed tasks were left, and the pick has let them go.
        assert not rq.cfs.nr_running, cpu.story("a fair queue with tasks gave none")
    if newidle.newidle_balance(cpu):
        return
    pick_idle(cpu, prev)


def put_prev_task(cpu: Cpu, prev: Task) -> None:
    """``put_prev_task()``: of the stopper and the idle task there is nothing to put."""
    if prev.sched_class == FAIR_CLASS:
        cpu.rq.fair.put_prev_task(cpu.rq, prev)
    elif prev.sched_class == RT_CLASS:
        rt.put_prev_task_rt(cpu.rq, prev)


def pick_idle(cpu: Cpu, prev: Task) -> None:
    """Nothing to run: switch to the idle task."""
    rq = cpu.rq
    assert not cpu.delayed_wakes, cpu.story("idle while a delayed wakeup waits")
    put_prev_task(cpu, prev)
    context_switch(cpu, prev, rq.idle)


def context_switch(cpu: Cpu, prev: Task, following: Task) -> None:
    """Make the switch, or go on with the same task; either way the reschedule is done."""
    rq = cpu.rq
    rq.need_resched = False
    rq.skip_clock_update = 0
    if following is not prev:
        rq.nr_switches += 1
        cpu.cause = following.run.cause or cpu.cause
        cpu.emit(tp.SCHED_SWITCH, prev.pid, prev.prio, prev.state, following.pid, following.prio)
        if cpu.sched_info is not None:
            waits = prev is not rq.idle and bool(prev.on_rq) and not prev.sched_delayed
            cpu.sched_info.sched_info_switch(cpu.now, prev.pid, waits, following.pid)
        prev.on_cpu = 0
        following.on_cpu = 1
        rq.curr = following
        if following is rq.idle and cpu.smt_siblings:
            idle_sibling.update_idle_core(cpu)
        if following is rq.idle or rq.nr_running != cpu.published_nr:
            cpu.publish()
        if prev.state == tp.TASK_DEAD:
            rt.class_of(rq, prev).task_dead(rq, prev)
            del cpu.tasks[prev.pid]
    elif rq.nr_running != cpu.published_nr:
        cpu.publish()  # the pick has let delayed tasks go
    finish_task_switch(cpu, prev, following)


def finish_task_switch(cpu: Cpu, prev: Task, following: Task) -> None:
    """Start the next task's frame; then deliver what waited for the previous one to be off."""
    run = following.run
    if following.flags & PF_WQ_WORKER:
        workqueue.wq_worker_running(cpu, following)
    cpu.level = frames.LEVEL_TASK
    cpu.irqs_on = True
    if following is cpu.rq.idle:
        if cpu.pushing:
            cpuhp.cpu_wait_empty(cpu)
        if following is not prev:
            cpu.start(frames.IDLE_ENTRY, cpu.costs.idle_entry_ns)
        else:
            idle.enter(cpu, None)
    elif not (cpu.pushing and migration.balance_push(cpu, following)):
        run.wait = WAIT_NONE
        cpu.start(run.kind, run.left, run.arg)
        if following is not prev and prev is not cpu.rq.idle and not prev.flags & PF_KTHREAD:
            cpu.f_end += cpu.costs.switch_from_user_ns
        if run.refill_ns and run.kind in (frames.USER, frames.RET_USER):
            cpu.f_end += run.refill_ns
            run.refill_ns = 0
        if run.uring is not None and run.kind == frames.USER:
            io_uring.interrupted(cpu)
    if cpu.deferred:
        waiting, cpu.deferred = cpu.deferred, []
        for message in waiting:
            cpu.receive(message)


def block(cpu: Cpu, p: Task, state: int, kind: int, left: int, arg: object = None) -> None:
    """Put the current task to sleep: it goes on with the given frame once it is woken."""
    run = p.run
    run.kind = kind
    run.left = left
    run.arg = arg
    run.wait_since = cpu.now
    p.state = state
    if run.wait in MAIL_WAITS and run.remote_ios:
        cpu.mail_sleepers[p.pid] = 1
    schedule(cpu)
    if p.flags & PF_WQ_WORKER:
        workqueue.wq_worker_sleeping(cpu, p)


def sleep_on_timer(
    cpu: Cpu, p: Task, until_ns: int, state: int, kind: int, left: int, arg: object = None
) -> None:
    """Put the current task to sleep until an hrtimer of this CPU wakes it."""
    p.run.wait = WAIT_TIMER
    cpu.add_timer(until_ns, hrtimer.TIMER_SLEEP, [p.pid, cpu.now])
    block(cpu, p, state, kind, left, arg)


# -- Wakeup -------------------------------------------------------------------------------------


def wake_up(cpu: Cpu, p: Task, sync: bool = False) -> None:
    """Wake a task of this CPU, after the wakeups already under way in this context."""
    if cpu.waking:
        cpu.wakeups.append((p.pid, sync))
    elif try_to_wake_up(cpu, p, sync):
        cpu.waking = cpu.f_kind in WAKEUP_FRAMES


def wakeup_done(cpu: Cpu) -> None:
    """A wakeup's frames are over: start the next one that waits."""
    cpu.waking = False
    while cpu.wakeups and not cpu.waking:
        pid, sync = cpu.wakeups.pop(0)
        p = cpu.tasks.get(pid)
        if p is not None:
            wake_up(cpu, p, bool(sync))


def try_to_wake_up(
    cpu: Cpu, p: Task, sync: bool = False, waker: tuple[int, int] | None = None
) -> bool:
    """Wake a task that this CPU owns; ``waker`` is (cpu, pid) if another CPU's context wakes it.

    The caller has set the frame that goes on afterwards: the wakeup's frames are pushed over it.
    Returns False if the task was not asleep.
    """
    if p.state == tp.TASK_RUNNING or p.state == TASK_WAKING:
        return False
    cpu.mail_sleepers.pop(p.pid, None)
    waker_cpu, waker_pid = waker if waker is not None else (cpu.node_id, cpu.rq.curr.pid)
    cause = cpu.emit(tp.SCHED_WAKING, p.pid, p.prio, p.cpu)
    p.run.cause = cause
    if p.on_rq:
        if p.sched_delayed:
            wake_delayed(cpu, p, cause, remote=waker is not None)
            return True
        # It has not been switched out yet: it simply stays.
        p.state = tp.TASK_RUNNING
        fair.update_rq_clock(cpu.rq, cpu.now)
        check_preempt_curr(cpu, p, 0)
        cpu.emit(tp.SCHED_WAKEUP, p.pid, p.prio, p.cpu)
        return True
    p.state = TASK_WAKING
    wakeup = [p.pid, waker_cpu, waker_pid, int(sync), cause]
    if waker is not None and p.on_cpu:
        # Still on its way off this CPU, which will wake it itself when that is over (5.8).
        here = cpu.node_id
        cpu.cause = cause
        p.run.cause = cpu.emit(tp.BOX_SELECT_TASK_RQ, p.pid, here, here, here, tp.PLACE_ON_CPU)
        smp.ttwu_queue_remote(cpu, p, ENQUEUE_WAKEUP)
        return True
    if waker is not None:
        # Another CPU's context decides and pays; here only the outcome takes effect.
        choose_and_activate(cpu, p, wakeup, remote=True)
        return True
    if (
        p.nr_cpus_allowed == 1
        and p.cpu == cpu.node_id  # not one that slept where a CPU has gone, and is bound here since
        and p.cpus_mask >> cpu.node_id & 1
        and affinity.is_cpu_allowed(cpu, p, cpu.node_id)
    ):
        cpu.push(frames.TTWU, cpu.costs.ttwu_ns, wakeup, cpu.level, False)
    else:
        cpu.push(frames.TTWU_SELECT, cpu.costs.select_task_rq_ns, wakeup, cpu.level, False)
    return True


def wake_delayed(cpu: Cpu, p: Task, cause: int, remote: bool) -> None:
    """``ttwu_runnable()`` of a task that sleeps but is still queued: no CPU is chosen (E.7).

    Here it takes the time of a bound wakeup; if another CPU's context wakes, that one pays.
    """
    if not remote:
        p.state = TASK_WAKING
        wakeup = [p.pid, cpu.node_id, cpu.rq.curr.pid, 0, cause]
        cpu.push(frames.TTWU, cpu.costs.ttwu_ns, wakeup, cpu.level, False)
        return
    asked = cpu.rq.need_resched
    ttwu_runnable(cpu, p)
    smp_send_reschedule_here(cpu, asked)


def ttwu_runnable(cpu: Cpu, p: Task) -> None:
    """Let a delayed task be awake again, in its place, and test whether it preempts."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    rq.fair.enqueue_task(rq, p, ENQUEUE_DELAYED)
    check_preempt_curr(cpu, p, 0)
    p.state = tp.TASK_RUNNING
    cpu.emit(tp.SCHED_WAKEUP, p.pid, p.prio, cpu.node_id)
    cpu.publish()


def ttwu_end(cpu: Cpu, wakeup: list[int]) -> None:
    """The enqueue of a task that is woken on this CPU."""
    p = cpu.tasks[wakeup[0]]
    cpu.pop()
    cpu.cause = wakeup[4]
    if p.sched_delayed:
        ttwu_runnable(cpu, p)
    else:
        ttwu_do_activate(cpu, p, ENQUEUE_WAKEUP)
    wakeup_done(cpu)


def ttwu_select_end(cpu: Cpu, wakeup: list[int]) -> None:
    """``select_task_rq()``: choose the CPU, start the way there."""
    p = cpu.tasks[wakeup[0]]
    cpu.cause = wakeup[4]
    choose_and_activate(cpu, p, wakeup, remote=False)


def choose_and_activate(cpu: Cpu, p: Task, wakeup: list[int], remote: bool) -> None:
    """Choose a CPU for a waking task and activate it there."""
    target = placement.select_task_rq(cpu, p, p.wake_cpu, wakeup[1], wakeup[2], bool(wakeup[3]))
    here = cpu.node_id
    if target == here:
        flags = ENQUEUE_WAKEUP
        if p.cpu != here:
            set_task_cpu(cpu, p, here, tp.MIGRATE_WAKEUP)
            flags |= ENQUEUE_MIGRATED
        if remote and smp.ttwu_queue_cond(cpu, wakeup[1]):
            smp.ttwu_queue_remote(cpu, p, flags)
        elif remote:
            asked = cpu.rq.need_resched
            ttwu_do_activate(cpu, p, flags)
            smp_send_reschedule_here(cpu, asked)
        else:
            cpu.start(frames.TTWU_ACTIVATE, cpu.costs.ttwu_activate_ns, [p.pid, flags])
        return
    set_task_cpu(cpu, p, target, tp.MIGRATE_WAKEUP)
    send_task(cpu, p, target, cpu.now + cpu.costs.ttwu_activate_ns, WF_MIGRATED, wakeup[1])
    if not remote:
        cpu.start(frames.TTWU_ACTIVATE, cpu.costs.ttwu_activate_ns)


def ttwu_activate_end(cpu: Cpu, arg: list[int] | None) -> None:
    """The wakeup is over for the waker; a task that stayed here is enqueued now."""
    cpu.pop()
    if arg is not None:
        p = cpu.tasks[arg[0]]
        cpu.cause = p.run.cause
        ttwu_do_activate(cpu, p, arg[1])
    wakeup_done(cpu)


def ttwu_do_activate(cpu: Cpu, p: Task, flags: int) -> None:
    """``ttwu_do_activate()`` and ``ttwu_do_wakeup()``: enqueue, preemption test, idle accounting."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    if rq.favours_kthreads and fair_kthread.delays_wakeup(rq, p):
        delay_wakeup(cpu, p)
        return
    activate_task(cpu, p, flags)
    check_preempt_curr(cpu, p, 0)
    p.state = tp.TASK_RUNNING
    cpu.emit(tp.SCHED_WAKEUP, p.pid, p.prio, cpu.node_id)
    if rq.idle_stamp:
        update_avg_idle(cpu)
    cpu.publish()


def delay_wakeup(cpu: Cpu, p: Task) -> None:
    """Leave a waking kthread for the next ``schedule()``: nobody counts it until then (F19)."""
    rq = cpu.rq
    vdiff, gran = rq.preempt_vdiff, rq.preempt_gran
    cpu.emit(tp.BOX_CHECK_PREEMPT, p.pid, rq.curr.pid, vdiff, gran, tp.PREEMPT_DELAYED)
    cpu.delayed_wakes.append(p.pid)


def queue_delayed_wakes(cpu: Cpu) -> None:
    """Queue the kthreads whose wakeup was delayed, the current task being off if it blocked."""
    pids, cpu.delayed_wakes = cpu.delayed_wakes, []
    cause = cpu.cause
    for pid in pids:
        p = cpu.tasks[pid]
        cpu.cause = p.run.cause
        activate_task(cpu, p, ENQUEUE_WAKEUP)
        p.state = tp.TASK_RUNNING
        cpu.emit(tp.SCHED_WAKEUP, p.pid, p.prio, cpu.node_id)
    cpu.cause = cause


def update_avg_idle(cpu: Cpu) -> None:
    """The first wakeup after idling: average in how long it lasted (D.10)."""
    rq = cpu.rq
    delta = rq.clock - rq.idle_stamp
    rq.avg_idle = min(rq.avg_idle + ((delta - rq.avg_idle) >> 3), 2 * rq.max_idle_balance_cost)
    if rq.rules.wake_avg_idle:
        rq.wake_stamp = cpu.jiffies()
        rq.wake_avg_idle = rq.avg_idle // 2
    rq.idle_stamp = 0


def activate_task(cpu: Cpu, p: Task, flags: int) -> None:
    """Put a task on this runqueue."""
    rq = cpu.rq
    assert not p.on_rq, cpu.story(f"{p.comm}/{p.pid} is enqueued twice")
    # A stop work may be about to take it to its new mask.
    assert p.cpus_mask >> cpu.node_id & 1 or p.affinity_broken or cpu.stop_works, cpu.story(
        f"{p.comm}/{p.pid} is enqueued outside its mask"
    )
    if cpu.sched_info is not None:
        cpu.sched_info.sched_info_queued(cpu.now, p.pid)
    before = rq.nr_running
    if p.sched_class == STOP_CLASS:
        stop_machine.enqueue_task_stop(cpu, p)
    elif p.sched_class == RT_CLASS:
        rt.enqueue_task_rt(rq, p, flags)
        rt_bandwidth.start_rt_bandwidth(cpu)
        before -= rq.rt.rt_throttled
    else:
        rq.fair.enqueue_task(rq, p, flags)
    assert rq.nr_running == before + 1, cpu.story("nr_running did not rise by one")
    if before == 1:
        rq.overload_ns = cpu.now


def check_preempt_curr(cpu: Cpu, p: Task, flags: int) -> None:
    """Whether the new task makes the current one give way; the current one is asked to if so."""
    rq = cpu.rq
    curr = rq.curr
    if curr is rq.idle:
        resched_curr(cpu)
    elif p.sched_class == curr.sched_class:
        why = rt.class_of(rq, p).check_preempt(rq, p, flags)
        if why >= 0:
            cpu.emit(tp.BOX_CHECK_PREEMPT, p.pid, curr.pid, rq.preempt_vdiff, rq.preempt_gran, why)
    elif p.sched_class < curr.sched_class and not (
        p.sched_class == RT_CLASS and rq.rt.rt_throttled
    ):
        resched_curr(cpu)
        if p.sched_class == RT_CLASS:
            cpu.emit(tp.BOX_CHECK_PREEMPT, p.pid, curr.pid, 0, 0, tp.PREEMPT_CLASS)
    if rq.need_resched and curr.on_rq:
        fair.rq_clock_skip_update(rq)


def yield_task(cpu: Cpu) -> None:
    """``yield_task()`` of the current task's class, clock updated."""
    fair.update_rq_clock(cpu.rq, cpu.now)
    rt.class_of(cpu.rq, cpu.rq.curr).yield_task(cpu.rq)


def set_task_cpu(cpu: Cpu, p: Task, target: int, why: int) -> None:
    """``set_task_cpu()`` of a task this CPU owns: leave the old queue's averages, count the move."""
    if p.sched_class == FAIR_CLASS:
        cpu.rq.fair.migrate_task_rq(cpu.rq, p, p.state == TASK_WAKING)
    p.run.cause = cpu.emit(tp.SCHED_MIGRATE_TASK, p.pid, p.prio, p.cpu, target, why)
    change_task_cpu(cpu, p, target)


def change_task_cpu(cpu: Cpu, p: Task, target: int) -> None:
    """``__set_task_cpu()``: the task is the target's from now on; its cache is not."""
    p.nr_migrations += 1
    p.run.refill_ns = (
        cpu.costs.cache_refill_ns if cpu.llc_mask >> target & 1 else cpu.costs.cache_refill_far_ns
    )
    p.cpu = target
    p.wake_cpu = target


def send_task(
    cpu: Cpu, p: Task, target: int, effect_ns: int, wake_flags: int, waker_cpu: int
) -> None:
    """Hand a task over: it belongs to the message until the target has enqueued it."""
    cpu.depart(p, target, effect_ns)
    cpu.send(
        target,
        messages.ACTIVATE,
        (p.pid, p, wake_flags, waker_cpu, p.run.cause),
        effect_ns,
        cpu.wake_reply_ns[cpu.asleep >> target & 1],
    )


def smp_send_reschedule_here(cpu: Cpu, asked: bool) -> None:
    """A remote enqueue asked this CPU to reschedule: the IPI arrives ``ipi_ns`` later.

    ``asked`` is whether it had been asked already: then the flag is set and nobody sends another.  An
    idle loop that polls the flag needs none.
    """
    if cpu.rq.need_resched and not asked:
        if idle.polls(cpu):
            idle.wake_polling(cpu)
        else:
            smp.send_ipi_here(cpu)
