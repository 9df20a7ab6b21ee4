"""Toy nodes: the least machine that uses every part of the node protocol.

Theory of operation
-------------------
The engines must not depend on what the nodes model, so they are tested and measured with nodes
that model nothing.  A :class:`ToyCpu` is a hog or a token player: it ticks, works, publishes a
number, reads the numbers of others, sends tokens (active), mail (passive), doorbells and balance
requests, gives tasks away.  A :class:`ToyBalancer` moves tasks with the zero-latency DETACH; a
:class:`ToyDevice` answers doorbells after a service time.  Every choice comes from a generator
whose state is one integer of the node, so a run is a function of its seed, and two engines agree
if and only if their traces do.
"""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.engine.board import HistoryBoard
from emulator.engine.node import CLASSES, Latencies, Promise
from emulator.latency import COORDINATOR
from emulator.nodebase import NodeBase
from emulator.types import NEVER, Message

LATENCIES = Latencies(cpu_ns=700, device_ns=300, balancer_ns=1_500, coherence_ns=120)

TICK_NS = 1_000_000
EVENT_MAX_NS = 40_000

#: One trace record: what happened, when, and what was seen.
Record = tuple[int, ...]


class Toy(NodeBase):
    """What the toys share: a generator, a trace, the box's make-up."""

    __slots__ = ("board", "nr_nodes", "random", "trace")

    def __init__(
        self, node_id: int, nr_cpus: int, nr_nodes: int, seed: int, board: HistoryBoard
    ) -> None:
        super().__init__(node_id, nr_cpus)
        self.nr_nodes = nr_nodes
        self.random = (seed * 1_000_003 + node_id * 7_919 + 1) & ((1 << 64) - 1)
        self.board = board
        self.trace: list[Record] = []

    def pick(self, below: int) -> int:
        """Return a number from 0 to ``below`` - 1 (a 64-bit linear congruential generator)."""
        self.random = (self.random * 6364136223846793005 + 1442695040888963407) & ((1 << 64) - 1)
        return (self.random >> 33) % below

    def note(self, *record: int) -> None:
        """Append a trace record of now."""
        self.trace.append((self.clock_ns, *record))

    def books(self) -> dict[str, Any]:
        """Return the trace and the number of events."""
        return {"trace": [list(record) for record in self.trace], "events": len(self.trace)}

    def packed(self) -> list[Any]:
        """Return the base's state as plain data."""
        return [
            [list(m) for m in self.inbox],
            [list(m) for m in self.mail],
            self.seq,
            self.clock_ns,
            self.read_ns,
            self.reached_ns,
            self.wants_view,
            self.random,
            [list(record) for record in self.trace],
        ]

    def unpacked(self, state: list[Any]) -> None:
        """Take over what :meth:`packed` returned."""
        self.inbox = [messages.message_from_list(m) for m in state[0]]
        self.mail = [messages.message_from_list(m) for m in state[1]]
        self.seq, self.clock_ns, self.read_ns, self.reached_ns = state[2:6]
        self.wants_view, self.random = state[6:8]
        self.trace = [tuple(record) for record in state[8]]


class ToyCpu(Toy):
    """A CPU that works, ticks and plays; idle toys only answer."""

    __slots__ = ("busy", "sleeper", "tasks", "tick_at", "value", "wake_at", "work_at")

    def __init__(
        self, node_id: int, nr_cpus: int, nr_nodes: int, seed: int, board: HistoryBoard, busy: int
    ) -> None:
        super().__init__(node_id, nr_cpus, nr_nodes, seed, board)
        self.busy = busy  # 0: only answers; 1: hog, which only ticks; 2: plays all the time
        self.sleeper = busy == 0  # mail wakes it
        self.tasks = [node_id * 100 + k for k in range(3)]
        self.work_at = 1 + self.pick(EVENT_MAX_NS) if busy else NEVER
        self.tick_at = TICK_NS + node_id * 1_000 if busy else NEVER
        self.wake_at = NEVER
        self.value = 0
        board.publish(node_id, 0, (0, len(self.tasks)))

    def own_next_ns(self) -> int:
        return min(self.work_at, self.tick_at, self.wake_at)

    def reads(self, message: Message | None) -> bool:
        # Ticks read, as do wakeups of this toy and tokens.
        if message is not None:
            return bool(message[4] == messages.NOHZ_KICK)
        return self.own_next_ns() != self.work_at

    def mail_matters(self) -> bool:
        return self.sleeper

    def fire(self, now_ns: int) -> None:
        if self.work_at == now_ns:
            self._work(now_ns)
        elif self.wake_at == now_ns:
            self.wake_at = NEVER
            self.note(3, self._look(now_ns))
            self.sleeper = self.pick(2) == 0
            self._play(now_ns)
        else:
            self.tick_at += TICK_NS
            self.note(2, self._look(now_ns))
            self._play(now_ns)

    def handle(self, message: Message) -> None:
        op, args = message[4], message[5]
        self.note(10 + op, message[0], message[1], message[2])
        if op == messages.DETACH:
            tasks = [[self.tasks.pop(), ""]] if self.tasks else []
            self.send(self.nr_cpus, messages.DETACHED, (args[0], tasks, 0), self.clock_ns)
        elif op == messages.ATTACH:
            self.tasks += [task[0] for task in args[0]]
        elif op == messages.ACTIVATE:
            self.tasks.append(args[0])
        elif op == messages.COMMAND:
            assert args[0][1] != "fail", "told to fail"
            answer = "done" if args[0][1] == "kill" else "ok"
            self.send(COORDINATOR, messages.COMMAND_DONE, (args[0], answer), self.clock_ns)
        elif op in (messages.NOHZ_KICK, messages.DIO_DONE, messages.COMPLETION):
            self.wake_at = min(self.wake_at, self.clock_ns + 50 + self.pick(5_000))
            if op == messages.NOHZ_KICK:
                self.note(4, self._look(self.clock_ns))
        self._publish()

    def promise(self) -> Promise:
        """A hog's work sends nothing, so its CPU promises the next tick."""
        if self.busy == 2:
            return super().promise()
        soonest = min(self.tick_at, self.wake_at, self.inbox[0][0] if self.inbox else NEVER)
        if self.mail and self.mail_matters():
            soonest = min(soonest, max(self.clock_ns, self.mail[0][0]))
        mail_ns = self.reached_ns if self.sleeper else self.next_event_ns()
        send = [soonest] * CLASSES
        return Promise(self.reached_ns, self.next_event_ns(), send, mail_ns, self.wants_view)

    def snapshot(self) -> list[Any]:
        own = [self.sleeper, self.tasks, self.work_at, self.tick_at, self.wake_at, self.value]
        return [self.packed(), own]

    def restore(self, state: list[Any]) -> None:
        self.unpacked(state[0])
        (self.sleeper, self.tasks, self.work_at, self.tick_at, self.wake_at, self.value) = state[1]

    def books(self) -> dict[str, Any]:
        return {**super().books(), "tasks": sorted(self.tasks)}

    def _work(self, now_ns: int) -> None:
        self.note(1, self.value)
        self.work_at = now_ns + 1 + self.pick(EVENT_MAX_NS)
        if self.busy == 2 and self.pick(4) == 0:
            self._play(now_ns)
        elif self.pick(3) == 0:
            self._publish()

    def _look(self, now_ns: int) -> int:
        # A digest of what can be seen of the other CPUs now.
        seen = 0
        for cpu in range(self.nr_cpus):
            if cpu != self.node_id:
                facts = self.board.read(cpu, now_ns - LATENCIES.coherence_ns)
                seen = (seen * 31 + sum(facts)) & 0xFFFFFFFF
        return seen

    def _publish(self) -> None:
        self.value += 1
        self.board.publish(self.node_id, self.clock_ns, (self.value, len(self.tasks)))

    def _play(self, now_ns: int) -> None:
        other = (self.node_id + 1 + self.pick(max(self.nr_cpus - 1, 1))) % self.nr_cpus
        what = self.pick(6)
        if what == 0 and self.nr_nodes > self.nr_cpus + 1:
            device = self.nr_cpus + 1 + self.pick(self.nr_nodes - self.nr_cpus - 1)
            self.send(device, messages.DOORBELL, (now_ns,), now_ns + LATENCIES.device_ns)
        elif what == 1:
            self.send(self.nr_cpus, messages.BALANCE, (0, 0), now_ns + LATENCIES.balancer_ns)
        elif other == self.node_id:
            return
        elif what == 2 and len(self.tasks) > 1:
            pid = self.tasks.pop(0)
            self.send(other, messages.ACTIVATE, (pid, [], 0, 0, 0), now_ns + LATENCIES.cpu_ns)
            self._publish()
        elif what == 3:
            self.send(other, messages.DIO_DONE, (0, 0, 0, 0), now_ns + LATENCIES.coherence_ns)
        else:
            delay = LATENCIES.cpu_ns + self.pick(3) * self.pick(2_000)
            self.send(other, messages.NOHZ_KICK, (0, 0), now_ns + delay)


class ToyBalancer(Toy):
    """Reads all CPUs at zero age and moves a task from the longest to the asker."""

    __slots__ = ("asked",)

    def __init__(
        self, node_id: int, nr_cpus: int, nr_nodes: int, seed: int, board: HistoryBoard
    ) -> None:
        super().__init__(node_id, nr_cpus, nr_nodes, seed, board)
        self.asked: list[list[int]] = []  # (time of the decision, who asked), sorted
        board.publish(node_id, 0, (0,))

    def own_next_ns(self) -> int:
        return self.asked[0][0] if self.asked else NEVER

    def reads(self, message: Message | None) -> bool:
        return True

    def handle(self, message: Message) -> None:
        self.note(10 + message[4], message[0], message[1], message[2])
        if message[4] == messages.BALANCE:
            self.asked.append([self.clock_ns + self.pick(2) * 2_000, message[1]])
            self.asked.sort()
        elif message[4] == messages.DETACHED:
            self._attach(message[5])

    def fire(self, now_ns: int) -> None:
        _, asker = self.asked.pop(0)
        lengths = [self.board.read(cpu, now_ns) for cpu in range(self.nr_cpus)]
        longest = max(range(self.nr_cpus), key=lambda cpu: (lengths[cpu][1], -cpu))
        self.note(5, asker, longest, sum(sum(facts) for facts in lengths))
        self.board.publish(self.node_id, now_ns, (asker, longest))
        if longest != asker:
            self.send(longest, messages.DETACH, ([asker],), now_ns)

    def snapshot(self) -> list[Any]:
        return [self.packed(), self.asked]

    def restore(self, state: list[Any]) -> None:
        self.unpacked(state[0])
        self.asked = state[1]

    def _attach(self, args: tuple[Any, ...]) -> None:
        env, tasks, _ = args
        if tasks:
            effect = self.clock_ns + LATENCIES.coherence_ns
            self.send(env[0], messages.ATTACH, (tasks, 0, 0), effect)


class ToyDevice(Toy):
    """Completes every request after a service time, at the CPU that rang."""

    __slots__ = ("queue",)

    def __init__(
        self, node_id: int, nr_cpus: int, nr_nodes: int, seed: int, board: HistoryBoard
    ) -> None:
        super().__init__(node_id, nr_cpus, nr_nodes, seed, board)
        self.queue: list[list[int]] = []

    def own_next_ns(self) -> int:
        return self.queue[0][0] if self.queue else NEVER

    def handle(self, message: Message) -> None:
        self.note(10 + message[4], message[0], message[1], message[2])
        self.queue.append([self.clock_ns + 5_000 + self.pick(20_000), message[1]])
        self.queue.sort()

    def fire(self, now_ns: int) -> None:
        _, cpu = self.queue.pop(0)
        self.note(6, cpu)
        self.send(cpu, messages.COMPLETION, (0, 0), now_ns + LATENCIES.cpu_ns)

    def snapshot(self) -> list[Any]:
        return [self.packed(), self.queue]

    def restore(self, state: list[Any]) -> None:
        self.unpacked(state[0])
        self.queue = state[1]


def build_node(node_id: int, spec_plain: dict[str, Any], _run_dir: str, board: HistoryBoard) -> Toy:
    """Build one toy; ``spec_plain`` has nr_cpus, nr_nodes, seed and ``busy``, a number per CPU."""
    make_up = (spec_plain["nr_cpus"], spec_plain["nr_nodes"], spec_plain["seed"])
    if node_id < make_up[0]:
        return ToyCpu(node_id, *make_up, board, spec_plain["busy"][node_id])
    if node_id == make_up[0]:
        return ToyBalancer(node_id, *make_up, board)
    return ToyDevice(node_id, *make_up, board)
