"""Pause, continue, step, status: how far a person lets the box run, and who waits to be told.

Theory of operation
-------------------
A box stands still at an *instant*: everything earlier is over, nothing at it or later has begun
(:attr:`~emulator.engine.windows.Windows.limit_ns`).  Standing still, and where, changes nothing in
what the nodes do.  A pause comes as soon as it can, behind every grant that was given: at most
:data:`~emulator.engine.windows.SPAN_NS` of emulated time later.  A step from a box that stands ends
at the very nanosecond.

``step until`` is exact too.  Which event is the one cannot be known before it has happened, so the
box goes from instant to instant: each limit lies right behind the earliest thing that could be done by
any node that may record the event, and the rings are looked at in between.  When the event is there, no
node has done anything later.  The price is an exchange per instant instead of one per window: little
where the balancer records the event, or one CPU is named, since only their instants count.  ``by=TIME`` is
for events that any CPU may record: the box goes so far at once, and the rings are looked at in between.  Then
the event may lie behind it by as much as that, which the answer says.

No step ends a run: at its last nanosecond the box stands still and may be looked at.

:class:`Control` does no I/O but what a watch does; it is told when the box is at rest, and hands out
answers to clients in :attr:`Control.answers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from emulator.added import shown
from emulator.engine.commands import Pending
from emulator.engine.windows import Windows
from emulator.types import NEVER, NSEC_PER_SEC
from emulator.units import duration_parse

#: First words of what is carried out here, and by no node.
VERBS = ("pause", "continue", "step", "status", "box")

STEP_USAGE = "step TIME, step to TIME, step until EVENT [FIELD=VALUE...] [by=TIME]"

#: How an event may be waited for in long steps begins.
BY = "by="


class Watch(Protocol):
    """Looks for something in what the nodes record; asked while the box stands still."""

    recorders: Sequence[int]  #: the nodes that may record it

    def look(self) -> tuple[int, str] | None:
        """Return the time and the text of the earliest match since the last look, or None."""
        ...


#: Starts a watch for a condition's words; raises ValueError saying what is odd.
Watcher = Callable[[Sequence[str]], Watch]


class Control:
    """Where the box is to stand still, and for whom."""

    __slots__ = (
        "_asked",
        "_core",
        "_found",
        "_missed",
        "_ran",
        "_since",
        "_standing",
        "_stride_ns",
        "_until",
        "_waiting",
        "_watch",
        "_watcher",
        "answers",
        "limit_ns",
    )

    def __init__(self, core: Windows, watcher: Watcher, paused: bool = False) -> None:
        self._core, self._watcher = core, watcher
        #: Nobody runs beyond it for now; NEVER: the box runs to its end.
        self.limit_ns = 0 if paused else NEVER
        self.answers: list[tuple[bytes, str]] = []  #: (client, text) to be sent
        self._standing = paused
        self._waiting: list[bytes] = []  # who is told when the box stands still
        self._asked: list[str] = []  # words of a condition whose watch begins at the next rest
        self._watch: Watch | None = None
        self._stride_ns = 0  # so far the box goes between two looks; 0: from instant to instant
        self._found = ""  # what a watch has found
        self._missed = False  # it has not, and the run is as good as over
        self._ran = (0.0, 0)  # host seconds and emulated ns of all the time it ran
        self._since = (time.monotonic(), 0)  # host time and emulated time since it has run on

    @property
    def standing(self) -> bool:
        """Whether the box stands still until somebody lets it go on."""
        return self._standing

    def command(self, client: bytes, words: list[Any]) -> None:
        """Do what one of :data:`VERBS` says; ValueError says what is odd about it."""
        match [str(word) for word in words]:
            case ["pause"]:
                self._pause(client)
            case ["continue"]:
                self._go_on(client)
            case ["step", "until", _, *_] as line:
                self._step_until(client, line[2:])
            case ["step", "to", moment]:
                self._step_to(client, duration_parse(moment))
            case ["step", duration] if duration not in ("to", "until"):
                self._step_to(client, self._here_ns() + max(duration_parse(duration), 1))
            case ["step", *_]:
                raise ValueError(f"it is {STEP_USAGE}")
            case [verb, *_]:
                raise ValueError(f"{verb} stands alone")

    def at_rest(self) -> bool:
        """Take note that all before the limit is over; return whether the limit has moved on."""
        if self._asked:
            try:
                self._watch, self._asked = self._watcher(self._asked), []
            except (OSError, ValueError) as error:
                self._asked = []
                self._stand(f"error: {error}")
                return False
        if self._watch is not None and self._look(self._watch):
            return True
        self._stand(self._place())
        return False

    def end(self) -> None:
        """Let the box go on to the end of the run, which comes: nobody can stop it any more."""
        self._give_up("error: the run is over")
        self._run_to(NEVER)

    def status(
        self, given: Sequence[Pending], waits: Sequence[str], faults: Sequence[str] = ()
    ) -> str:
        """Return how the box is: where, how fast, who is waited for, and what it was told to do."""
        core = self._core
        now_ns = core.floor_ns()
        state = "stands still" if self._standing else "runs"
        lines = [f"{state} at {moment(now_ns)} of {moment(core.until_ns)}"]
        speed = self._speed(now_ns)
        if speed:
            lines[0] += f"; while it ran, at {speed:.2f} times real time"
        if waits and not self._standing:
            lines.append(f"waits for {', '.join(waits)}")
        lines.append(f"commands: {len(given) or 'none'}")
        for one in given:
            due = "under way" if one.at_ns < now_ns else "not yet due"
            answer = due if one.waits else one.answer()
            text = "; ".join(answer.splitlines())
            lines.append(f"  {moment(one.at_ns)}  {shown(one.words)}: {text}")
        return "\n".join([*lines, *faults])

    # -- verbs -----------------------------------------------------------------------------------

    def _pause(self, client: bytes) -> None:
        if self._standing:
            self.answers.append((client, self._place()))
            return
        self._interrupt(client, self._here_ns())

    def _go_on(self, client: bytes) -> None:
        if not self._standing and self.limit_ns >= NEVER:
            self.answers.append((client, "refused: the box runs already"))
            return
        self._give_up("error: somebody let the box go on")
        self.answers.append((client, f"goes on from {moment(self._core.floor_ns())}"))
        self._run_to(NEVER)

    def _step_to(self, client: bytes, target_ns: int) -> None:
        if target_ns <= self._here_ns():
            raise ValueError(f"the box has come to {moment(self._here_ns())} already")
        self._interrupt(client, target_ns)

    def _step_until(self, client: bytes, words: list[str]) -> None:
        strides = [duration_parse(word.removeprefix(BY)) for word in words if word.startswith(BY)]
        words = [word for word in words if not word.startswith(BY)]
        self._watcher(words)  # refuses what cannot be watched for
        self._interrupt(client, self._here_ns())
        self._asked, self._stride_ns = words, max(strides, default=0)

    def _interrupt(self, client: bytes, target_ns: int) -> None:
        self._give_up("error: somebody else stopped the box")
        self._waiting.append(client)
        self._run_to(target_ns)

    def _give_up(self, text: str) -> None:
        # Whoever waits for the box to stand still waits no more.
        self._watch, self._asked = None, []
        self._tell(text)

    def _run_to(self, target_ns: int) -> None:
        if self._standing:
            self._since = (time.monotonic(), self._core.floor_ns())
        self._standing, self._found, self._missed = False, "", False
        self.limit_ns = target_ns if target_ns >= NEVER else min(target_ns, self._last_ns())

    # -- standing --------------------------------------------------------------------------------

    def _look(self, watch: Watch) -> bool:
        # Returns whether there is more to do before the box stands.
        if not self._found and not self._missed:
            match = watch.look()
            low_ns = self._core.soonest_ns(watch.recorders)
            if match is None:
                self._missed = low_ns >= self._last_ns()
                target_ns = self._last_ns() if self._missed else low_ns + max(self._stride_ns, 1)
            else:
                # A record may be written ahead of its time, in a stretch that is one event.
                self._found = match[1]
                target_ns = match[0] + 1
            if target_ns > self.limit_ns:
                self.limit_ns = min(target_ns, self._last_ns())
                return True
        self._watch = None
        return False

    def _stand(self, text: str) -> None:
        if not self._standing:
            self._standing = True
            seconds, emulated = self._ran
            began_s, began_ns = self._since
            self._ran = (
                seconds + time.monotonic() - began_s,
                emulated + self._core.floor_ns() - began_ns,
            )
        self._tell(text)

    def _tell(self, text: str) -> None:
        self.answers += [(client, text) for client in self._waiting]
        self._waiting = []

    def _place(self) -> str:
        text = f"stands still at {moment(self._core.floor_ns())}"
        if self._missed:
            return f"refused: no such event until the end of the run; the box {text}"
        return f"{text}\n{self._found}" if self._found else text

    def _here_ns(self) -> int:
        # Where the box can stand still at the soonest.
        return self._core.stamp_ns() - 1

    def _last_ns(self) -> int:
        return self._core.until_ns - 1

    def _speed(self, now_ns: int) -> float:
        seconds, emulated = self._ran
        if not self._standing:
            began_s, began_ns = self._since
            seconds, emulated = seconds + time.monotonic() - began_s, emulated + now_ns - began_ns
        return emulated / NSEC_PER_SEC / seconds if seconds > 0 else 0.0


def moment(time_ns: int) -> str:
    """Return an emulated time to the nanosecond, in seconds."""
    return f"{time_ns // NSEC_PER_SEC}.{time_ns % NSEC_PER_SEC:09d} s"
