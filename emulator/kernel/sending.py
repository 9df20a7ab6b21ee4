"""What leaves a CPU: messages, mail, answers to commands, tasks and what must follow them."""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.kernel import hrtimer
from emulator.kernel.record import Recorder
from emulator.kernel.sched import Task
from emulator.types import COORDINATOR


class Sender(Recorder):
    """A CPU as far as it makes itself felt at other nodes."""

    __slots__ = ()

    def send(
        self, target: int, op: int, args: tuple[Any, ...], effect_ns: int, reply_min_ns: int
    ) -> None:
        """Hand out a message; ``reply_min_ns`` bounds how soon its effect can come back here."""
        assert target != self.node_id, self.story(f"a message of op {op} to itself")
        self.seq += 1
        self.outbox.append((effect_ns, self.node_id, self.seq, target, op, args))
        if effect_ns + reply_min_ns < self.limit:
            self.limit = effect_ns + reply_min_ns
        if effect_ns + self.costs.coherence_ns < self.horizon:
            self.horizon = effect_ns + self.costs.coherence_ns

    def send_mail(self, target: int, op: int, args: tuple[Any, ...], at_ns: int = 0) -> None:
        """Hand out passive mail: it takes effect one coherence latency from now (or ``at_ns``)."""
        self.seq += 1
        effect_ns = max(self.now, at_ns) + self.costs.coherence_ns
        self.outbox.append((effect_ns, self.node_id, self.seq, target, op, args))
        if target > self.bal_node:
            return  # a device answers mail with nothing that a CPU looks at
        if effect_ns + self.costs.coherence_ns < self.horizon:
            self.horizon = effect_ns + self.costs.coherence_ns
        if target < self.bal_node:
            # It may wake a sleeper there, who may be placed here.
            soonest = max(effect_ns, self.mail_safe_ns) + self.costs.ttwu_activate_ns
            if soonest < self.limit:
                self.limit = soonest

    def answer(self, words: list[Any], answer: str, place: int = -1) -> None:
        """Tell the coordinator how a command went, in the place of the node that passed it on."""
        self.seq += 1
        args = (words, answer, place)
        self.outbox.append(
            (self.now, self.node_id, self.seq, COORDINATOR, messages.COMMAND_DONE, args)
        )

    def keep_books(self, p: Task) -> None:
        """Let a task's program measure here from now on, in the books that it left if it was here."""
        program = p.run.program
        if program is not None:
            books = program.measure_in(self.books_kept.get(p.pid))
            if books is not None:
                self.books_kept[p.pid] = books

    def depart(self, p: Task, target: int, arrival_ns: int) -> None:
        """A task leaves: its mail follows it, and what is still to come here is sent on."""
        assert not p.on_rq, self.story(f"{p.comm}/{p.pid} leaves while it is queued")
        run = p.run
        remote = run.remote_ios
        if remote:
            self.expect[p.pid] = self.expect.get(p.pid, 0) + remote
        run.remote_ios = run.outstanding()
        p.moves += 1
        self.forward[p.pid] = (p.moves, target)
        self.arrivals[p.pid] = arrival_ns
        del self.tasks[p.pid]
        self.mail_sleepers.pop(p.pid, None)
        if p.sched_delayed:
            hrtimer.take_sleep_timer(self, p)

    def unexpect(self, pid: int) -> None:
        """One IO of a task that left has ended as far as this CPU is concerned."""
        left = self.expect.get(pid, 0) - 1
        if left > 0:
            self.expect[pid] = left
        else:
            self.expect.pop(pid, None)
