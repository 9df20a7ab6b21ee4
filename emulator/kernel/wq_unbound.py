"""What a CPU has to do with unbound pools: it queues there, and runs their workers.

Theory of operation
-------------------
A pool of no CPU belongs to the shared-state node (:mod:`shared`), as its lock and its lists do in the
kernel to nobody's cache.  Whoever needs the pool asks and waits, with interrupts off as under
``pool->lock``, one coherence latency there and one back (frame ``WQ_WAIT``).  The answer says what the
kernel would have found under the lock, and whom to wake; the wakeup itself is the asker's
(frame ``WQ_ANSWER``).

Workers are ordinary tasks, named ``kworker/u<pool>:<id>``, which the scheduler places and balances.
One that starts or has ended an item fetches the next one (:func:`fetch`): it gets an item, or is to
create another worker first, or becomes idle.  With each fetch it leaves what a waker must know of a
sleeper (mask, previous CPU, load): if it becomes idle the node has that already, as the kernel's next
waker would find it under the lock.  So ``try_to_wake_up()`` is decided by the waker's CPU; the outcome
goes to where the worker sleeps (WQ_WAKE), and from there to the CPU chosen (:mod:`pipe` does alike).

The item that a worker executes is in the task (``TaskRun.item``) and moves with it.

Departures from the kernel: several completions that one interrupt handler ends wait for the pool at
the same time, not one after the other; a worker that is woken while it still goes to sleep has been
placed for nothing; workers whose affinity the scheduler broke get their mask back when they go idle
and a CPU of it is active, not when that CPU comes online.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    core,
    cpuhp,
    dio_completion,
    frames,
    kthread,
    pipe,
    placement,
    wq_functions,
    wq_hotplug,
    wq_pool,
)
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import PF_WQ_WORKER, Task
from emulator.kernel.wq_pool import (
    FETCHED_CREATE,
    FETCHED_HOME,
    FETCHED_ITEM,
    Wake,
    answer_ns,
)
from emulator.kernel.wq_table import UNBOUND_BASE, UnboundPool, unbound_cpumask
from emulator.types import NEVER, Message, for_each_cpu

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

# Argument of WQ_ANSWER: [ANSWER_*, …].
ANSWER_QUEUED = 0  # work, activated, wakes, cause
ANSWER_WAKE = 1  # one wake
ANSWER_FETCHED = 2  # what, creation, activated, wakes


# -- Queueing (F.4) -----------------------------------------------------------------------------


def queue_work(cpu: Cpu, item: list[Any], near: int = -1) -> None:
    """Queue an item of an unbound queue: ask its pool, over the frame that goes on afterwards.

    ``near`` is the CPU whose pool it is to be, -1: the kernel chooses.
    """
    work, function, wq_id, arg, _cause = item
    wq = cpu.workqueues[wq_id]
    item[4] = cpu.emit(
        tp.WORKQUEUE_QUEUE_WORK,
        work,
        cpu.names[wq_pool.FUNCTIONS[function]],
        cpu.names[wq.name],
        wq_pool.WORK_CPU_UNBOUND if near < 0 else near,
        -1,
    )
    if wq_pool.carries_request(function):
        dio_completion.send_away(cpu, arg)
    here = wq_select_unbound_cpu(cpu) if near < 0 else near
    pool = cpu.pods[wq_id][here]
    cpu.wq_ticket += 1
    cpu.push(frames.WQ_WAIT, 0, cpu.wq_ticket, cpu.level, False)
    cpu.f_end = NEVER
    ask(cpu, messages.WQ_QUEUE, (cpu.wq_ticket, pool, here, wq_pool.pack_item(item)))


def wq_select_unbound_cpu(cpu: Cpu) -> int:
    """``wq_select_unbound_cpu()``: this CPU if unbound work may be here, else one after the other."""
    allowed = unbound_cpumask(cpu.spec)
    if allowed >> cpu.node_id & 1:
        return cpu.node_id
    usable = list(for_each_cpu(allowed & cpu.domains.active_mask))
    if not usable:
        return cpu.node_id
    cpu.wq_rr_cpu = next((c for c in usable if c > cpu.wq_rr_cpu), usable[0])
    return cpu.wq_rr_cpu


def ask(cpu: Cpu, op: int, args: tuple[Any, ...]) -> None:
    """Send the shared-state node a question."""
    costs = cpu.costs
    cpu.send(cpu.shared_node, op, args, cpu.now + costs.coherence_ns, answer_ns(costs))


def post(cpu: Cpu, target: int, op: int, args: tuple[Any, ...]) -> None:
    """Send a CPU, which may be this one, a question about its pools or the answer to one."""
    costs = cpu.costs
    if target == cpu.node_id:
        cpu.seq += 1
        cpu.deliver((cpu.now + costs.coherence_ns, target, cpu.seq, target, op, args))
    else:
        cpu.send(target, op, args, cpu.now + answer_ns(costs), answer_ns(costs))


def queue_disassociated(cpu: Cpu, index: int, item: list[Any]) -> None:
    """Queue an item of a bound queue on this CPU's own pool while the CPU goes down (F.11).

    The caller has set the frame that goes on afterwards.
    """
    assert cpu.asked is not None
    work, function, _wq_id, arg, _cause = item
    if wq_pool.carries_request(function):
        dio_completion.send_away(cpu, arg)
    pool = cpu.first_disassociated + 2 * cpu.node_id + index
    activated, wakes = cpu.asked.queue(cpu.now, pool, cpu.node_id, wq_pool.pack_item(item))
    if activated:
        cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, work)
    wake_all(cpu, wakes, cpu.costs.queue_work_ns)


def handle_queued(cpu: Cpu, message: Message) -> None:
    """The pool has taken an item: whether it is active, whom to wake."""
    ticket, work, cause, activated, wakes = message[5]
    answered(cpu, ticket, [ANSWER_QUEUED, work, activated, wakes, cause], 0)


def answered(cpu: Cpu, ticket: int, arg: list[Any], left: int) -> None:
    """Let the frame go on that waits for this answer, when it is on top."""
    if cpu.f_kind == frames.WQ_WAIT and cpu.f_arg == ticket:
        cpu.f_kind = frames.WQ_ANSWER
        cpu.f_arg = arg
        cpu.f_end = left if cpu.stalled else cpu.now + left
        return
    for index, frame in enumerate(cpu.stack):
        if frame[0] == frames.WQ_WAIT and frame[2] == ticket:
            cpu.stack[index] = (frames.WQ_ANSWER, left, arg, frame[3], frame[4])
            return
    raise AssertionError(cpu.story(f"an answer that nothing waits for: {arg}"))


def answer_end(cpu: Cpu, arg: list[Any]) -> None:
    """The pool's lock is free again: record what was found, wake who must be woken."""
    if arg[0] == ANSWER_QUEUED:
        _kind, work, activated, wakes, cause = arg
        cpu.cause = cause
        if activated:
            cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, work)
        cpu.pop()
        wake_all(cpu, wakes, cpu.costs.queue_work_ns)
    elif arg[0] == ANSWER_WAKE:
        cpu.pop()
        wake_worker(cpu, arg[1])
    else:
        fetched(cpu, *arg[1:])


# -- Wakeups ------------------------------------------------------------------------------------


def wake_all(cpu: Cpu, wakes: list[Wake], first_ns: int) -> None:
    """Make wakeups one after the other; ``first_ns`` is the way to the first one."""
    for index, wake in reversed(list(enumerate(wakes))):
        ns = 0 if index else first_ns
        cpu.push(frames.WQ_ANSWER, ns, [ANSWER_WAKE, wake], cpu.level, False)


def wake_worker(cpu: Cpu, wake: Wake) -> None:
    """``wake_up_process()`` of an idle worker, which sleeps here or elsewhere."""
    pid, moves, where, since, se, wake_cpu, cause = wake
    cpu.cause = cause
    p = cpu.tasks.get(pid)
    if p is not None:
        if wake_cpu >= 0:
            p.wake_cpu = wake_cpu
        core.wake_up(cpu, p)
        return
    worker = pipe.sleeper(se)
    if not worker.cpus_mask & cpu.domains.active_mask:
        # Its affinity has to be broken, which is done where it sleeps.
        curr = cpu.rq.curr
        args: tuple[Any, ...] = (pid, moves, [], cpu.node_id, curr.pid, cause)
        pipe.send(cpu, where, messages.WQ_WAKE, args, cpu.now + cpuhp.reply_ns(cpu))
        dio_completion.charge(cpu, cpu.costs.ttwu_ns)
        return
    waking = cpu.emit(tp.SCHED_WAKING, worker.pid, worker.prio, worker.cpu)
    ns = cpu.costs.select_task_rq_ns if worker.nr_cpus_allowed > 1 else 0
    assert not cpu.waking, cpu.story("an unbound worker is woken inside a wakeup")
    cpu.waking = True
    what = [moves, where, since, se, wake_cpu, waking]
    cpu.push(frames.WQ_SELECT, ns, what, cpu.level, False)


def select_end(cpu: Cpu, what: list[Any]) -> None:
    """The CPU of a worker is chosen: the decision leaves for where it sleeps."""
    moves, where, since, se, wake_cpu, waking = what
    worker = pipe.sleeper(se)
    costs, curr = cpu.costs, cpu.rq.curr
    cpu.cause = waking
    left = costs.ttwu_activate_ns if worker.nr_cpus_allowed > 1 else costs.ttwu_ns
    prev = wake_cpu if wake_cpu >= 0 else worker.wake_cpu
    target = placement.select_task_rq(cpu, worker, prev, cpu.node_id, curr.pid, False)
    if target != worker.cpu:
        cpu.cause = cpu.emit(
            tp.SCHED_MIGRATE_TASK, worker.pid, worker.prio, worker.cpu, target, tp.MIGRATE_WAKEUP
        )
    soonest = cpu.now + cpuhp.reply_ns(cpu)
    enqueue_ns = max(cpu.now + left, soonest)
    effect_ns = enqueue_ns if target == where else soonest
    decision = [since, target, worker.recent_used_cpu, enqueue_ns]
    args = (worker.pid, moves, decision, cpu.node_id, curr.pid, cpu.cause)
    pipe.send(cpu, where, messages.WQ_WAKE, args, effect_ns)
    cpu.start(frames.TTWU_ACTIVATE, left)


def handle_wake(cpu: Cpu, message: Message) -> None:
    """A worker is woken that sleeps here, by another CPU's decision."""
    _pid, _moves, decision, waker_cpu, waker_pid, cause = message[5]
    p = pipe.addressee(cpu, message)
    if p is None:
        return
    if p.state in wq_pool.AWAKE:
        return
    cpu.cause = cause
    if pipe.still_holds(p, decision):
        pipe.wake_as_decided(cpu, p, decision, waker_cpu)
    else:
        core.try_to_wake_up(cpu, p, waker=(waker_cpu, waker_pid))


# -- Workers (F.5, F.7) -------------------------------------------------------------------------


def create_worker(cpu: Cpu, pool: UnboundPool, pid: int, number: int) -> Task:
    """Create a worker of an unbound pool here, idle and asleep."""
    p = kthread.new_kthread(
        cpu,
        pid,
        pool.worker_name(number),
        pool.nice or cpu.rq.rules.kworker_nice,
        frames.WORKER_START,
    )
    p.flags |= PF_WQ_WORKER
    p.cpus_mask = pool.mask
    p.nr_cpus_allowed = pool.mask.bit_count()
    p.state = tp.TASK_IDLE
    p.run.left = cpu.costs.worker_start_ns
    p.run.worker = UNBOUND_BASE + pool.index
    return p


def pool_of(cpu: Cpu, p: Task) -> UnboundPool:
    """Return what is fixed about the pool that an unbound worker serves."""
    index: int = p.run.worker - UNBOUND_BASE
    return cpu.unbound_pools[index]


def fetch(cpu: Cpu, p: Task, starts: bool = False) -> None:
    """Ask the pool what comes next; ``starts``: the worker was idle, or has created another one."""
    run = p.run
    run.item = []
    run.wait_since = cpu.now
    cpu.wq_ticket += 1
    cpu.wait(frames.WQ_WAIT, cpu.wq_ticket)
    cpu.irqs_on = False
    pool = run.worker - UNBOUND_BASE
    args = (cpu.wq_ticket, pool, p.pid, int(starts), p.moves, cpu.now, p.pack_se())
    home = cpu.unbound_pools[pool].home
    if home < 0:
        ask(cpu, messages.WQ_FETCH, args)
    else:
        post(cpu, home, messages.WQ_FETCH, args)


def handle_work(cpu: Cpu, message: Message) -> None:
    """What comes next for the worker that asked."""
    ticket, what, given, starts, activated, wakes = message[5]
    left = 0
    if what == FETCHED_ITEM:
        cpu.rq.curr.run.item = given
        left = 0 if starts else cpu.costs.work_next_ns
    answered(cpu, ticket, [ANSWER_FETCHED, what, given, activated, wakes], left)


def fetched(cpu: Cpu, what: int, given: list[Any], activated: list[int], wakes: list[Wake]) -> None:
    """Do what the pool said: execute an item, create a worker, or sleep."""
    p = cpu.rq.curr
    cpu.irqs_on = True
    cpu.cause = 0
    for work in activated:
        cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, work)
    if what == FETCHED_ITEM:
        wq_functions.start_function(cpu, p, wq_pool.unpack_item(given))
    elif what == FETCHED_CREATE:
        cpu.start(frames.WORKER_CREATE, cpu.costs.worker_create_ns, given)
    elif what == FETCHED_HOME:
        wq_hotplug.go_home(cpu, p)
    else:
        worker_enter_idle(cpu, p)
    wake_all(cpu, wakes, 0)


def worker_created(cpu: Cpu, p: Task, creation: list[int] | None) -> None:
    """``maybe_create_worker()`` has made an idle worker, which looks for itself; look again too."""
    if creation is None:  # it was made when its pool was bound to a CPU
        fetch(cpu, p, starts=True)
        return
    new = create_worker(cpu, pool_of(cpu, p), *creation)
    fetch(cpu, p, starts=True)
    core.wake_up(cpu, new)


def worker_enter_idle(cpu: Cpu, p: Task) -> None:
    """Nothing to do: the pool counts the worker as idle already, from here it may be woken."""
    run = p.run
    run.wait = WAIT_WORK
    run.kind = frames.WORKER_START
    run.left = cpu.costs.worker_start_ns
    run.arg = None
    p.state = tp.TASK_IDLE
    mask = pool_of(cpu, p).mask
    if p.affinity_broken and mask & cpu.domains.active_mask:
        p.cpus_mask = mask
        p.nr_cpus_allowed = mask.bit_count()
        p.affinity_broken = 0
    cpu.start(frames.WORKER_SLEEP, cpu.costs.worker_sleep_ns)
