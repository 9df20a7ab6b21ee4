"""The end of a run: the books of all nodes, and the OUTCOME, whatever happened.

Theory of operation
-------------------
A run that came to its end asks every node for its books and compares them
(:mod:`emulator.engine.conservation`).  One that did not tells why.  Where a death is to end the run, a lost
connection is often its first sign; the OUTCOME names it, and the supervisor, whose child it is, says how it
died.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from emulator import wire
from emulator.agents import frames, host
from emulator.agents.desk import Desk
from emulator.agents.home import Home
from emulator.agents.link import LinkError
from emulator.agents.post import AgentFailedError, Post, RefusedError, name_of
from emulator.agents.recovery import DiedTwiceError
from emulator.agents.safekeeping import Safekeeping
from emulator.engine.checkpoint import CheckpointError
from emulator.engine.conservation import audit_books, pids_owned
from emulator.engine.inline import RunOutcome
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.engine.windows import Windows
from emulator.hosterrors import host_error


class HostError(Exception):
    """The host refused an agent what it needs; the text says what."""


class Closing:
    """What is known of how the run ended."""

    __slots__ = ("_books", "_core", "_cpus", "_lost", "_plan", "_post", "outcome")

    def __init__(self, plan: Plan, core: Windows, post: Post, cpus: tuple[int, ...]) -> None:
        self._plan, self._core, self._post, self._cpus = plan, core, post, cpus
        self._books: dict[int, dict[str, Any]] = {}
        self._lost = ""  # name of an agent that is not there any more
        self.outcome = RunOutcome()

    # -- books -----------------------------------------------------------------------------------

    def books_came(self, identity: bytes, books: dict[str, Any], facts: dict[str, Any]) -> None:
        """Note a node's books, and what the host says of its process."""
        self._books[self._post.node_of(identity)] = books
        self.outcome.agents[name_of(identity)] = facts

    def close_books(self, home: Home, keeping: Safekeeping, wait: Callable[[], None]) -> None:
        """Give all nodes what is left for them, and compare their books."""
        core, outcome = self._core, self.outcome
        for node_id in range(self._plan.nr_nodes):
            grant = core.leftovers(node_id)
            if node_id in home:
                self._books[node_id] = home.finish(grant)
            else:
                data = frames.pack_grant(frames.FINISH, grant, core.read_floor_ns())
                keeping.ask(node_id, data)
        while len(self._books) < self._plan.nr_nodes:
            wait()
        outcome.books = self._books
        problems = audit_books(self._books)
        problems += core.ledger.audit(pids_owned(self._books), core.until_ns)
        if problems:
            outcome.status, outcome.error = 1, "\n".join(problems)

    # -- what went wrong -------------------------------------------------------------------------

    def blame(self, error: Exception) -> None:
        """Note what the run broke off for."""
        outcome = self.outcome
        match error:
            case AgentFailedError():
                outcome.status, outcome.error = 1, str(error)
            case LinkError():
                outcome.status, outcome.error = 2, str(error)
                self._lost = name_of(error.peer)
            case CheckpointError() | HostError() | RefusedError():
                outcome.status, outcome.error = 2, str(error)
            case DiedTwiceError():
                outcome.status, outcome.error = 1, f"{error}\n{self._core.story()}"
            case _:
                # Our own failure, a node's in this process, or a broken invariant of the engine.
                refused = host_error(error)
                outcome.status = 2 if refused else 1
                text = refused or "".join(traceback.format_exception(error))
                outcome.error = f"{COORDINATOR_NAME}: {text}"

    def send_outcome(self, home: Home, keeping: Safekeeping, desk: Desk) -> None:
        """Dismiss everybody and tell the supervisor how it was."""
        # A node may have failed before the supervisor was heard.
        outcome, core, post = self.outcome, self._core, self._post
        post.await_supervisor()
        counts = {"refused_frames": post.refusals.count, "unread_answers": post.unread}
        facts = host.usage(self._cpus) | counts
        outcome.agents[COORDINATOR_NAME] = facts
        data = wire.pack(
            [
                frames.OUTCOME,
                outcome.status,
                outcome.error,
                core.floor_ns(),
                core.windows,
                core.messages,
                post.nr_bytes,
                outcome.books,
                desk.commands.record(core.until_ns),
                outcome.agents,
                [fault.plain() for fault in keeping.recovery.faults],
                self._lost,
            ]
        )
        for node_id in post.nodes():
            if node_id not in home:
                post.dismiss(node_id)
        post.end(data)
