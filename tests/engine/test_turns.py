"""CPUs that take turns on one host thread."""

from typing import Any

from emulator import messages
from emulator.engine.board import HistoryBoard
from emulator.engine.node import CLASSES, Latencies, Promise
from emulator.engine.turns import TIMER_STEP_NS, TurnsBox, timer_early_ns
from emulator.nodebase import NodeBase
from emulator.types import NEVER, Message

LATENCIES = Latencies(cpu_ns=100, device_ns=100, balancer_ns=500, coherence_ns=50)


class ToyTurnCpu(NodeBase):
    """Executes steps of its script, one after the other, and takes its timers.

    A step is (cost, what, value): ``arm`` a timer at a time, ``kick`` another CPU, ``halt``.
    A timer's interrupt or a kick makes it execute its handler for 10 ns.
    """

    __slots__ = ("done", "end", "irqs", "now", "script", "stalled", "timer_watch_ns", "timers")

    def __init__(self, node_id: int, nr_cpus: int, script: list[tuple[int, str, int]]) -> None:
        super().__init__(node_id, nr_cpus)
        self.script = script
        self.done: list[tuple[int, str]] = []
        self.timers: list[int] = []
        self.irqs = 0
        self.now = 0
        self.timer_watch_ns = -1
        self.stalled = False
        self.end = script[0][0] if script else NEVER

    def own_next_ns(self) -> int:
        if self.stalled:
            return NEVER
        if self.irqs:
            return self.now
        return min([self.end, *(max(timer, self.now) for timer in self.timers)])

    def fire(self, now_ns: int) -> None:
        self.now = now_ns
        if self.irqs:
            self.irqs -= 1
            self._interrupt("kick")
        elif self.timers and self.timers[0] <= now_ns:
            self.timers.pop(0)
            self._interrupt("timer")
        else:
            self._execute()
        if self.is_halted() and self.timer_watch_ns >= 0:
            self.limit_ns = now_ns

    def handle(self, message: Message) -> None:
        self.now = max(self.now, message[0])
        self.irqs += 1

    def is_halted(self) -> bool:
        return self.end == NEVER and not self.irqs

    def next_timer_ns(self) -> int:
        return self.timers[0] if self.timers else NEVER

    def stall(self, now_ns: int) -> None:
        assert not self.stalled
        self.stalled = True
        if self.end < NEVER:
            self.end -= now_ns

    def resume(self, now_ns: int) -> None:
        self.stalled = False
        self.now = self.clock_ns = max(self.now, now_ns)
        if self.end < NEVER:
            self.end += now_ns

    def books(self) -> dict[str, Any]:
        return {}

    def promise(self) -> Promise:
        return Promise(0, NEVER, [NEVER] * CLASSES)

    def snapshot(self) -> list[Any]:
        return []

    def restore(self, state: list[Any]) -> None:
        raise NotImplementedError

    def _interrupt(self, what: str) -> None:
        self.done.append((self.now, what))
        if self.end < NEVER:
            self.end += 10
        elif not self.script:
            self.script, self.end = [(10, "halt", 0)], self.now + 10

    def _execute(self) -> None:
        _, what, value = self.script.pop(0)
        self.done.append((self.now, what))
        if what == "arm":
            self.timers = sorted([*self.timers, value])
            if value < self.timer_watch_ns:
                self.limit_ns = self.now
        elif what == "kick":
            self.send(value, messages.NOHZ_KICK, (0, 0), self.now + LATENCIES.cpu_ns)
        self.end = NEVER if what == "halt" or not self.script else self.now + self.script[0][0]


class Silent(ToyTurnCpu):
    """A balancer that never has anything to do."""


def turns(*scripts: list[tuple[int, str, int]]) -> tuple[TurnsBox, list[ToyTurnCpu]]:
    cpus = [ToyTurnCpu(cpu, len(scripts), script) for cpu, script in enumerate(scripts)]
    nodes = [*cpus, Silent(len(cpus), len(cpus), [])]
    board = HistoryBoard(len(nodes))
    return TurnsBox(nodes, len(cpus), [board], LATENCIES), cpus


def test_one_executes_at_a_time_until_it_halts() -> None:
    box, cpus = turns([(300, "x", 0), (200, "halt", 0)], [(400, "halt", 0)])
    box.run(10_000)
    assert cpus[0].done == [(300, "x"), (500, "halt")]
    assert cpus[1].done == [(900, "halt")]
    assert box.handovers == 2


def test_a_timer_of_any_cpu_ends_the_turn_and_what_was_executed_keeps_its_rest() -> None:
    box, cpus = turns([], [(1_000, "halt", 0)])
    cpus[0].timers = [400]
    box.run(10_000)
    # The slice of CPU 1 is 200; nobody else wants the host until the timer.
    assert cpus[0].done == [(400, "timer"), (410, "halt")]
    assert cpus[1].done == [(1_010, "halt")]


def test_when_a_timer_expires_the_round_begins_anew_at_the_lowest_cpu() -> None:
    box, cpus = turns([(1_000, "halt", 0)], [])
    cpus[1].timers = [400]
    box.run(10_000)
    # CPU 0 loses the host to the timer and is the first to get it again; nothing else is pending.
    assert cpus[0].done == [(1_000, "halt")]
    assert cpus[1].done == [(1_000, "timer"), (1_010, "halt")]


def test_a_slice_is_the_time_to_the_next_timer_shared_by_all_cpus() -> None:
    box, cpus = turns([(600, "halt", 0)], [(600, "halt", 0)])
    cpus[1].timers = [1_000]
    box.run(10_000)
    # A round of two slices of 500 ns; then CPU 0 has 100 left, and CPU 1 the timer and 100.
    assert cpus[0].done == [(1_100, "halt")]
    assert cpus[1].done == [(1_100, "timer"), (1_210, "halt")]


def test_a_timer_that_serves_nobody_shortens_the_slices() -> None:
    box, cpus = turns([(600, "halt", 0)], [(600, "halt", 0)])
    box.turn_ns = 400
    box.run(10_000)
    # Slices of 200 until 400, of 200, 100, 50, 50 until 800 (the timer kicks CPU 1 too), of 150.
    assert cpus[0].done == [(950, "halt")]
    assert cpus[1].done == [(1_200, "halt")]


def test_of_cpus_whose_ticks_fall_together_each_gets_its_share_of_the_time_to_the_next() -> None:
    tick: list[tuple[int, str, int]] = [(5, "arm", 4_405), (3_000, "halt", 0)]
    box, cpus = turns(list(tick), list(tick))
    box.run(10_000)
    # CPU 0 arms at 5 and kicks; CPU 1 gets half of what is left until 4405, so until 2205, not
    # half of an instant without timers.  Then slices of 1100: CPU 1 is through before the tick.
    assert cpus[1].done[:2] == [(10, "arm"), (4_110, "halt")]
    assert cpus[0].done == [(5, "arm"), (4_405, "timer"), (6_020, "halt")]


def test_arming_a_timer_earlier_than_all_others_gives_up_the_host() -> None:
    box, cpus = turns([(100, "arm", 5_000), (300, "halt", 0)], [(50, "halt", 0)])
    box.run(10_000)
    assert cpus[0].done[0] == (100, "arm")
    assert cpus[1].done == [(150, "halt")]
    assert cpus[0].done[1] == (450, "halt")


def test_of_two_timers_for_one_instant_rounding_decides_which_comes_first() -> None:
    seen = set()
    for seed in range(8):
        early_ns = [timer_early_ns(seed, cpu, 4_405) for cpu in (0, 1)]
        tick: list[tuple[int, str, int]] = [(5, "arm", 4_405), (90, "x", 0), (3_000, "halt", 0)]
        box, cpus = turns(list(tick), list(tick))
        box.timer_seed = seed
        box.run(10_000)
        # Where CPU 1's comes first it has armed the first timer of all, and gives up the host.
        resumed_ns = 10 if early_ns[1] > early_ns[0] else 2_205
        assert cpus[0].done[1] == (resumed_ns + 90, "x")
        seen.add(resumed_ns)
    assert len(seen) == 2


def test_rounding_is_drawn_for_each_timer() -> None:
    draws = [timer_early_ns(seed, cpu, at) for seed in (1, 2) for cpu in (0, 1) for at in (4, 8)]
    assert len(set(draws)) > 4
    assert draws == [timer_early_ns(s, c, at) for s in (1, 2) for c in (0, 1) for at in (4, 8)]
    assert {timer_early_ns(3, 0, at) for at in range(999)} == set(range(TIMER_STEP_NS))


def test_a_message_makes_no_turn_but_a_halted_cpu_gets_its_turn_for_it() -> None:
    box, cpus = turns([(100, "kick", 1), (500, "halt", 0)], [])
    box.run(10_000)
    assert cpus[0].done == [(100, "kick"), (600, "halt")]
    # The kick arrived at 200 and waited for the host.
    assert cpus[1].done == [(600, "kick"), (610, "halt")]


def test_turns_go_round_in_cpu_order() -> None:
    box, cpus = turns([(100, "halt", 0)], [(100, "halt", 0)], [(100, "halt", 0)])
    box.run(10_000)
    assert [cpu.done[0][0] for cpu in cpus] == [100, 200, 300]
