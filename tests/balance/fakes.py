"""A box without CPUs for the balancer's tests: a board, a trace, and queues that answer DETACH."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from emulator import messages
from emulator.balance.balancer import Balancer
from emulator.rules import Rules
from emulator.tracepoints import BOX_LB_IMBALANCE
from emulator.types import (
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    ENV_CACHE_NICE_TRIES,
    ENV_CPUS,
    ENV_CURR_ALLOWED,
    ENV_DST_CPU,
    ENV_DST_GRPMASK,
    ENV_FLAGS,
    ENV_HOT_GAINED,
    ENV_IDLE,
    ENV_IMBALANCE,
    ENV_LOOP,
    ENV_LOOP_BREAK,
    ENV_LOOP_MAX,
    ENV_NEW_DST_CPU,
    ENV_NR_BALANCE_FAILED,
    ENV_THIS_CPU,
    LBF_ALL_PINNED,
    LBF_DST_PINNED,
    LBF_NEED_BREAK,
    LBF_SOME_PINNED,
    NEVER,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    STOP_ABORTED,
    STOP_FAILED,
    STOP_PUSHED,
    BoxSpec,
    Costs,
    KernelSpec,
    MachineSpec,
    Message,
    cpumask_first,
)


def machine(
    nr_cpus: int, *, hz: int = 1000, llc: int = 0, core: int = 1, node: int = 0
) -> MachineSpec:
    """Return a machine of ``nr_cpus`` with groups of so many CPUs per LLC, core and node.

    ``llc`` 0 is one LLC for all, -1 none at all; ``node`` 0 is one node.
    """

    def masks(size: int) -> tuple[int, ...]:
        return tuple(((1 << size) - 1) << c // size * size for c in range(nr_cpus))

    whole = node or nr_cpus
    nodes = nr_cpus // whole
    return MachineSpec(
        nr_cpus=nr_cpus,
        hz=hz,
        core=masks(core),
        llc=(0,) * nr_cpus if llc < 0 else masks(llc or nr_cpus),
        die=masks(whole),
        node=masks(whole),
        node_distance=tuple(
            tuple(10 if i == j else 20 for j in range(nodes)) for i in range(nodes)
        ),
    )


def box_spec(
    spec: MachineSpec,
    *,
    pass_ns: int = 0,
    visit_ns: int = 0,
    coherence_ns: int = 0,
    rules: Rules = Rules(),
    features: dict[str, bool] | None = None,
    sysctls: dict[str, int] | None = None,
    balanced_ago: tuple[int, ...] = (),
) -> BoxSpec:
    """Return a box of this machine and nothing else."""
    numbers: dict[str, Any] = {f.name: 0 for f in fields(Costs) if f.type == "int"}
    numbers |= {
        "balance_pass_ns": pass_ns,
        "nohz_cpu_ns": visit_ns,
        "coherence_ns": coherence_ns,
    }
    kernel = KernelSpec("5.4", {"UTIL_EST": True} | (features or {}), sysctls or {}, rules=rules)
    costs = Costs(**numbers)
    return BoxSpec("test", 1, 10**9, 0, spec, kernel, costs, (), (), (), balanced_ago=balanced_ago)


def rq_facts(
    nr_running: int = 0,
    load: int = 0,
    util: int = 0,
    *,
    h_nr_running: int | None = None,
    online: bool = True,
    last_update_time: int = 0,
) -> tuple[int, ...]:
    """Return the facts of a runqueue with so many tasks; idle if none."""
    flags = RQF_ONLINE | RQF_ACTIVE if online else 0
    if not nr_running:
        flags |= RQF_IDLE
    h_nr = nr_running if h_nr_running is None else h_nr_running
    sums = (load * 46718, load * 46718, util * 46718, 0)
    overload_ns = 0 if nr_running > 1 else -1
    return (
        *(flags, nr_running, h_nr, load, load, util, 0, last_update_time),
        *(*sums, load << 10, overload_ns, 0, 0, 0, 1024),
    )


class FakeBoard:
    """Facts per node, the newest only."""

    def __init__(self, nr_cpus: int) -> None:
        self.facts: dict[int, tuple[int, ...]] = {c: rq_facts() for c in range(nr_cpus)}
        self.reads = 0

    def publish(self, node: int, time_ns: int, facts: tuple[int, ...]) -> None:
        self.facts[node] = facts

    def read(self, node: int, as_of_ns: int) -> tuple[int, ...]:
        self.reads += 1
        return self.facts[node]


class FakeTrace:
    """Records as they were emitted: of passes, and of the imbalances that passes found."""

    def __init__(self) -> None:
        self.position = 0
        self.records: list[tuple[int, ...]] = []
        self.imbalances: list[tuple[int, ...]] = []

    def truncate_to(self, position: int) -> None:
        """Forget the records from ``position`` on."""
        del self.records[position:]

    def emit(
        self,
        time_ns: int,
        event: int,
        flags: int,
        pid: int,
        cause: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        e: int = 0,
    ) -> int:
        record = (time_ns, event, cause, a, b, c, d, e)
        (self.imbalances if event == BOX_LB_IMBALANCE else self.records).append(record)
        self.position += 1
        return self.position - 1

    def intern(self, text: str) -> int:
        return 0

    def comm(self, pid: int, name: str) -> None:
        raise AssertionError("the balancer names no task")


class FakeTask:
    """A queued task: ``hot`` is what task_hot() would say."""

    def __init__(self, pid: int, allowed: int = -1, load: int = 1024, *, hot: bool = False) -> None:
        self.pid = pid
        self.allowed = allowed
        self.load = load
        self.hot = hot


class FakeBox:
    """A balancer and the queues of its CPUs; the last task of ``queue`` is its tail.

    ``running[cpu]`` is the task on the CPU.  ``util`` holds for every CPU that has tasks.
    Time that a run asks for is spent at once: what is asked and ``interrupted_ns[cpu]`` on top.
    """

    def __init__(self, spec: MachineSpec, **given: Any) -> None:
        self.spec = spec
        self.board = FakeBoard(spec.nr_cpus)
        self.trace = FakeTrace()
        self.balancer = Balancer(box_spec(spec, **given), self.board, self.trace)
        self.queues: list[list[FakeTask]] = [[] for _ in range(spec.nr_cpus)]
        self.running: list[FakeTask | None] = [None] * spec.nr_cpus
        self.util = [1000] * spec.nr_cpus
        self.moves: list[tuple[int, int, int, int]] = []  # (time, pid, from, to)
        self.done: list[tuple[int, int, tuple[Any, ...]]] = []  # (effect, cpu, args)
        self.pays: list[tuple[int, int, int]] = []  # (effect, cpu, cost)
        self.interrupted_ns = [0] * spec.nr_cpus  # what interrupts add to each payment
        self.resched_ns = [NEVER] * spec.nr_cpus  # from when on need_resched is set
        self.seen: list[Message] = []
        self.seq = 0
        self.answers: Callable[[int, list[int]], None] | None = None
        self.on_stop: Callable[[Message], None] | None = None
        self.later: list[Message] = []

    def put(self, cpu: int, *tasks: FakeTask, running: int = 0) -> None:
        """Queue tasks on a CPU, the one at index ``running`` (-1: none) on the CPU."""
        self.queues[cpu] += tasks
        if self.running[cpu] is None and running >= 0:
            self.running[cpu] = tasks[running]
        self.publish(cpu)

    def publish(self, cpu: int) -> None:
        self.board.facts[cpu] = self.facts(cpu)

    def facts(self, cpu: int) -> tuple[int, ...]:
        queue = self.queues[cpu]
        util = self.util[cpu] if queue else 0
        return rq_facts(len(queue), sum(t.load for t in queue), util)

    def send(self, now_ns: int, cpu: int, op: int, *args: Any) -> None:
        """Give the balancer a message from a CPU."""
        self.seq += 1
        message = (now_ns, cpu, self.seq, self.spec.nr_cpus, op, args)
        self.balancer.deliver(message)

    def run(self, until_ns: int) -> None:
        """Let the balancer and the queues work until ``until_ns``."""
        while True:
            # Who is asked answers before anything else happens.
            for message in [m for m in self.later if m[4] == messages.DETACH]:
                self.later.remove(message)
                self.receive(message)
            times = [self.balancer.next_event_ns(), *(m[0] for m in self.later)]
            now = min(times)
            if now >= until_ns:
                return
            if times[0] == now:
                self.balancer.advance(now + 1, NEVER)
                self.later += self.balancer.outbox
                self.balancer.outbox.clear()
            else:
                message = min(self.later)
                self.later.remove(message)
                self.receive(message)

    def receive(self, message: Message) -> None:
        self.seen.append(message)
        now, _source, _seq, cpu, op, args = message
        if op == messages.DETACH:
            env = list(args[0])
            tasks = self.detach_tasks(now, cpu, env)
            self.send(now, cpu, messages.DETACHED, env, tasks, self.facts(cpu))
        elif op == messages.ATTACH:
            for _pid, task in args[0]:
                self.queues[cpu].append(task)
                if self.running[cpu] is None:
                    self.running[cpu] = task
            self.publish(cpu)
        elif op == messages.STOP:
            self.stop(message)
        elif op == messages.BALANCE_PAY:
            self.pay(now, cpu, args[0])
        elif op == messages.BALANCE_DONE:
            self.done.append((now, cpu, args))

    def pay(self, now: int, cpu: int, cost_ns: int) -> None:
        """Spend the time that the balancer asks for, and say whether need_resched came up."""
        self.pays.append((now, cpu, cost_ns))
        paid_ns = now + cost_ns + self.interrupted_ns[cpu]
        self.send(paid_ns, cpu, messages.BALANCE_PAID, int(paid_ns >= self.resched_ns[cpu]))

    def detach_tasks(self, now: int, cpu: int, env: list[int]) -> list[Any]:
        curr = self.running[cpu]
        env[ENV_CURR_ALLOWED] = int(curr is None or bool(curr.allowed >> env[ENV_THIS_CPU] & 1))
        moved: list[Any] = []
        queue = self.queues[cpu]
        while queue and env[ENV_IMBALANCE] > 0:
            if env[ENV_IDLE] != CPU_NOT_IDLE and len(queue) <= 1:
                break
            env[ENV_LOOP] += 1
            if env[ENV_LOOP] > env[ENV_LOOP_MAX]:
                break
            if env[ENV_LOOP] > env[ENV_LOOP_BREAK]:
                env[ENV_LOOP_BREAK] += 32
                env[ENV_FLAGS] |= LBF_NEED_BREAK
                break
            task = queue.pop()
            if not self.can_migrate(cpu, task, env) or task.load // 2 > env[ENV_IMBALANCE]:
                queue.insert(0, task)
                continue
            env[ENV_IMBALANCE] -= task.load
            moved.append([task.pid, task])
            self.moves.append((now, task.pid, cpu, env[ENV_DST_CPU]))
        self.publish(cpu)
        return moved

    def can_migrate(self, cpu: int, task: FakeTask, env: list[int]) -> bool:
        if not task.allowed >> env[ENV_DST_CPU] & 1:
            env[ENV_FLAGS] |= LBF_SOME_PINNED
            if env[ENV_IDLE] == CPU_NEWLY_IDLE or env[ENV_FLAGS] & LBF_DST_PINNED:
                return False
            other = env[ENV_DST_GRPMASK] & env[ENV_CPUS] & task.allowed
            if other:
                env[ENV_FLAGS] |= LBF_DST_PINNED
                env[ENV_NEW_DST_CPU] = cpumask_first(other)
            return False
        env[ENV_FLAGS] &= ~LBF_ALL_PINNED
        if task is self.running[cpu]:
            return False
        if task.hot:
            if env[ENV_NR_BALANCE_FAILED] <= env[ENV_CACHE_NICE_TRIES]:
                return False
            env[ENV_HOT_GAINED] += 1
        return True

    def stop(self, message: Message) -> None:
        """Push the running task at once, and report."""
        now, _source, _seq, cpu, _op, (push_cpu, _env, _cause) = message
        task = self.running[cpu]
        result, hot = STOP_FAILED, 0
        if task is None:
            result = STOP_ABORTED
        elif task.allowed >> push_cpu & 1:
            hot = int(task.hot)
            result = STOP_PUSHED
            self.queues[cpu].remove(task)
            rest = self.queues[cpu]
            self.running[cpu] = rest[0] if rest else None
            self.queues[push_cpu].append(task)
            if self.running[push_cpu] is None:
                self.running[push_cpu] = task
            self.moves.append((now, task.pid, cpu, push_cpu))
            self.publish(cpu)
            self.publish(push_cpu)
        self.send(now, cpu, messages.STOPPED, push_cpu, result, hot)
        if self.on_stop is not None:
            self.on_stop(message)
