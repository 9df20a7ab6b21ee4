"""A coordinator that strikes its own agents, each at the moment that a round asks for.

Only the coordinator knows what an agent is about: who computes, to whom a task is under way, who is asked
for its state.  So the chaos suite (:mod:`tests.chaos`) runs boxes with this one, which is the real one but for
the blows.  What it did is written to ``chaos.json`` of the run directory as it does it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from emulator import messages
from emulator.agents import coordinator, host
from emulator.agents.coordinator import Coordinator
from emulator.agents.link import Hub
from emulator.engine.conservation import CARRIES
from emulator.engine.plan import Plan
from emulator.engine.windows import Grant

#: What a victim is about when it is struck.
COMPUTING, MIGRATION, SNAPSHOT, IDLE = "computing", "migration", "snapshot", "idle"
AIMS = (COMPUTING, MIGRATION, SNAPSHOT, IDLE)

KILL, STOP = "SIGKILL", "SIGSTOP"
HOTPLUG = "hotplug"

#: A stopped process is let go on after so long.
STOPPED_S = 0.03

BLOWS = "chaos.json"


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: from which emulated time on, which, and what its victim is about then."""

    at_ns: int
    kind: str  #: KILL, STOP or HOTPLUG
    aim: str = ""


@dataclass(frozen=True, slots=True)
class Struck:
    """A blow that was dealt: to whom, when."""

    kind: str
    aim: str
    agent: str
    at_ns: int  #: emulated
    host_ns: int  #: monotonic


def rehearsal(seed: int, until_ns: int, kills: int, stops: int, hotplugs: int) -> list[Blow]:
    """Return the blows of one round in order of time, each aim as often as any other."""
    random = Random(seed)
    kinds = [KILL] * kills + [STOP] * stops
    aims = [AIMS[n % len(AIMS)] for n in range(len(kinds))]
    random.shuffle(aims)
    whole = [(kind, aim) for kind, aim in zip(kinds, aims, strict=True)]
    whole += [(HOTPLUG, "")] * hotplugs
    random.shuffle(whole)
    times = sorted(random.randrange(until_ns // 20, until_ns * 9 // 10) for _ in whole)
    return [Blow(at_ns, *one) for at_ns, one in zip(times, whole, strict=True)]


class AimedCoordinator(Coordinator):
    """The coordinator, striking."""

    __slots__ = ("_ahead", "_fallen", "_pids", "_random")

    def __init__(self, plan: Plan, hub: Hub, cpus: tuple[int, ...], heirs_from: int) -> None:
        super().__init__(plan, hub, cpus, heirs_from)
        seed, *counts = json.loads((Path(plan.run_dir) / BLOWS).read_text(encoding="utf-8"))
        self._random = Random(seed)
        self._ahead = rehearsal(seed, plan.until_ns, *counts)
        self._pids: dict[int, int] = {}
        self._fallen: set[int] = set()  # killed, and not yet replaced
        (Path(plan.run_dir) / BLOWS).write_text("", encoding="utf-8")

    # -- what the coordinator does, and the moments in it ------------------------------------------

    def _hello(self, identity: bytes, frame: list[Any]) -> None:
        self._pids[frame[3]] = frame[4]
        super()._hello(identity, frame)

    def _take_back(self, identity: bytes, frame: list[Any]) -> None:
        self._pids[frame[3]] = frame[4]
        self._fallen.discard(frame[3])
        super()._take_back(identity, frame)

    def _give(self, grant: Grant) -> None:
        ops = {message[4] for message in grant.messages}
        super()._give(grant)
        if grant.node not in self._home:
            if ops & set(CARRIES) or messages.DETACH in ops:
                self._strike(MIGRATION, [grant.node])
            elif messages.SCHEDULE_REQUEST in ops:
                self._strike(SNAPSHOT, [grant.node])
            else:
                self._strike(COMPUTING, [grant.node])

    def _take_next(self) -> None:
        asked = self._keeping.asked()
        self._strike(SNAPSHOT, asked)
        logs = self._keeping.recovery.logs
        busy = {node for node, log in logs.items() if log.computing} | set(asked)
        idle = [node for node in self._pids if node not in busy and node not in self._home]
        self._strike(IDLE, idle)
        self._plug()
        super()._take_next()

    # -- striking ----------------------------------------------------------------------------------

    def _due(self) -> Blow | None:
        if self._ahead and self._core.floor_ns() >= self._ahead[0].at_ns:
            return self._ahead[0]
        return None

    def _strike(self, aim: str, nodes: list[int]) -> None:
        blow = self._due()
        if blow is None or blow.aim != aim or not self._board.started:
            return
        # A node that has just died must get further first: twice at one instant is a bug.
        unfit = self._keeping.recovery.struggling() | self._fallen
        fit = [node for node in nodes if node not in unfit]
        if not fit:
            return
        node = self._random.choice(fit)
        self._ahead.pop(0)
        pid = self._pids[node]
        try:
            os.kill(pid, signal.Signals[blow.kind])
        except ProcessLookupError:
            return
        if blow.kind == KILL:
            self._fallen.add(node)
        else:
            threading.Timer(STOPPED_S, _let_go, [pid]).start()
        self._note(blow, self._plan.name(node))

    def _plug(self) -> None:
        blow = self._due()
        if blow is None or blow.kind != HOTPLUG or self._core.stamp_ns() >= self._core.until_ns:
            return
        self._ahead.pop(0)
        cpu = self._random.randrange(1, self._plan.nr_cpus)
        words = ["cpu", self._random.choice(["offline", "online"]), str(cpu)]
        self._desk.give(self._core.stamp_ns(), words)
        self._note(blow, " ".join(words))

    def _note(self, blow: Blow, whom: str) -> None:
        struck = Struck(blow.kind, blow.aim, whom, self._core.floor_ns(), host.now_ns())
        with (Path(self._plan.run_dir) / BLOWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(struck)) + "\n")


def _let_go(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def main(
    plan: Plan, hub_address: str, observer_address: str, cpus: tuple[int, ...], heirs_from: int
) -> int:
    """Be the coordinator's process."""
    return coordinator.main(
        plan, hub_address, observer_address, cpus, heirs_from, make=AimedCoordinator
    )


def blows_of(run_dir: Path) -> list[Struck]:
    """Return the blows that a round dealt."""
    lines = (run_dir / BLOWS).read_text(encoding="utf-8").splitlines()
    return [Struck(**json.loads(line)) for line in lines]
