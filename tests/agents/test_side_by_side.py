"""Two boxes at once: what is done to one is not noticed by the other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from emulator.agents.link import ask
from emulator.agents.supervisor import CONTROL, Supervisor, run_processes
from emulator.engine.inline import RunOutcome, run_inline
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.engine.toys import LATENCIES, TICK_NS

pytestmark = [pytest.mark.box, pytest.mark.timeout(60)]

FOREVER_NS = 1 << 50


def plan(run_dir: Path, seed: int, until_ns: int) -> Plan:
    """Return a box of toys with a run directory of its own."""
    run_dir.mkdir(exist_ok=True)
    spec = {"nr_cpus": 2, "nr_nodes": 4, "seed": seed, "busy": [2, 1]}
    factory = "emulator.engine.toys:build_node"
    return Plan(2, ("sda",), until_ns, LATENCIES, factory, spec, str(run_dir))


def control(run_dir: Path) -> str:
    """Return where a box takes commands."""
    return (run_dir / CONTROL).read_text(encoding="utf-8").strip()


class Neighbours:
    """Boxes that are run while another one runs, from the thread of its supervisor."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.whole: RunOutcome | None = None
        self.killed: RunOutcome | None = None
        self.answers: list[str] = []

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        """Run one box whole, and one whose coordinator is killed."""
        if now_ns > 0 and self.whole is None:
            first = control(self._place / "first")
            self.whole = run_processes(plan(self._place / "second", 9, 4 * TICK_NS), self.command)
            self._run_and_kill()
            assert control(self._place / "first") == first
            self.answers.append(ask(first, ["no", "such"], 20_000))
        return True

    def command(self, now_ns: int, waiting_for: str = "") -> bool:
        """Give the second box a command that the first must not see."""
        if now_ns > 0 and not self.answers:
            second = control(self._place / "second")
            assert second != control(self._place / "first")
            self.answers.append(ask(second, ["no", "such"], 20_000))
        return True

    def _run_and_kill(self) -> None:
        third = Supervisor(plan(self._place / "third", 11, FOREVER_NS), lambda *_, **__: True)
        victims: list[int] = []

        def kill(now_ns: int, waiting_for: str = "") -> bool:
            if now_ns > 0 and not victims:
                victims.append(third.pids()[COORDINATOR_NAME])
                os.kill(victims[0], signal.SIGKILL)
            return True

        third._on_progress = kill
        try:
            self.killed = third.run()
        finally:
            third.close()
        assert not psutil.pid_exists(victims[0])


def test_what_happens_to_one_box_is_not_noticed_by_another(tmp_path: Path) -> None:
    neighbours = Neighbours(tmp_path)
    until_ns = 300 * TICK_NS
    outcome = run_processes(plan(tmp_path / "first", 5, until_ns), neighbours.on_progress)
    assert (outcome.status, outcome.error) == (0, "")
    assert outcome.books == run_inline(plan(tmp_path / "first", 5, until_ns)).books
    assert outcome.commands == []
    assert neighbours.whole is not None
    assert neighbours.whole.status == 0
    assert neighbours.whole.books == run_inline(plan(tmp_path / "second", 9, 4 * TICK_NS)).books
    assert neighbours.killed is not None
    assert neighbours.killed.status == 2
    assert len(neighbours.answers) == 2
    # No box left its sockets, and none those of another.
    assert [path.name for path in tmp_path.rglob(CONTROL)] == []
