"""A completion policy as a word: its name, with what may follow it; and which may be taken up live.

``NAME``, ``NAME:BATCH`` for the policies that go round, ``NAME:SIGNAL=LIMIT+SIGNAL=LIMIT`` for those
that ask signals.  A limit is a duration, a count or a percentage, as the signal's row says.

A box that runs may go over to another policy if that is a choice at the end of each bio.  What is made at
boot stays: the workqueues, and the books that some signals read.
"""

from __future__ import annotations

import difflib

from emulator.completion import (
    COMPLETION_QUEUES,
    COMPLETIONS,
    DEFAULT_BATCH,
    SIGNALS,
    CompletionSpec,
)
from emulator.rules import Rules
from emulator.types import KernelSpec
from emulator.units import duration_parse

#: Signals that read books which a box keeps only if its file asks for them.
BOOKED = frozenset(("psi", "run_delay", "steal"))

BATCH_MAX = 4096
COUNT_MAX = 4096


def resolve_completion(text: str, rules: Rules) -> CompletionSpec:
    """Return the policy that a box names; raise ValueError saying what is odd."""
    name, colon, rest = text.partition(":")
    policy = COMPLETIONS.get(name)
    if policy is None:
        close = difflib.get_close_matches(name, COMPLETIONS, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; `policies` lists them"
        raise ValueError(f"no completion policy is called {name!r}{hint}")
    if colon and not policy.takes:
        raise ValueError(f"{name} takes nothing behind a colon")
    if policy.takes == "batch":
        return CompletionSpec(name, batch=_batch(rest) if colon else DEFAULT_BATCH)
    if policy.takes == "signals":
        words = rest.split("+") if colon else [policy.signal]
        signals = tuple(_signal(word, rules) for word in words)
        if len({signal for signal, _limit in signals}) < len(signals):
            raise ValueError(f"{text}: a signal is there twice")
        return CompletionSpec(name, signals=signals)
    return CompletionSpec(name)


def live_problem(text: str, kernel: KernelSpec) -> str:
    """Return why a kernel that runs cannot take up a policy, "" if it can."""
    try:
        asked = resolve_completion(text, kernel.rules)
    except ValueError as error:
        return str(error)
    if COMPLETIONS[asked.name].unbound:
        return f"{asked.name}: the workqueues are made at boot; say it in the box file"
    for name in COMPLETION_QUEUES:
        if name in kernel.workqueue.unbound:
            return (
                f"this box was booted with {name} unbound, and a policy chooses among bound pools"
            )
    kept = {signal for signal, _limit in kernel.completion.signals}
    for signal, _limit in asked.signals:
        if signal in BOOKED and signal not in kept:
            return f"the signal {signal} reads what is counted from boot on; say it in the box file"
    return ""


def _batch(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= BATCH_MAX:
        raise ValueError(f"{word!r} is not a number of completions, 1 to {BATCH_MAX}")
    return int(word)


def _signal(word: str, rules: Rules) -> tuple[str, int]:
    name, equals, limit = word.partition("=")
    signal = SIGNALS.get(name)
    if signal is None:
        raise ValueError(f"no signal is called {name!r}; there are {', '.join(SIGNALS)}")
    if name == "preempt" and rules.eevdf:
        raise ValueError("the signal preempt compares vruntimes, which EEVDF does not")
    if name == "runnable" and not rules.runnable_avg:
        raise ValueError("the signal runnable reads runnable_avg, which is there from 5.7 on")
    if not equals:
        return name, signal.limit
    if signal.unit == "time":
        return name, duration_parse(limit)
    if not signal.unit:
        raise ValueError(f"the signal {name} has no limit")
    highest = 100 if signal.unit == "percent" else COUNT_MAX
    if not limit.isdecimal() or not 0 <= int(limit) <= highest:
        raise ValueError(f"{limit!r} is no limit of {name}: a {signal.unit}, 0 to {highest}")
    return name, int(limit)
