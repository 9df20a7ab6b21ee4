"""``why``: what was last done to a task, and the chain of decisions that led to it.

Theory of operation
-------------------
:func:`explain` picks what there is to explain: the last move of a task, or at a given time the
last move, preemption, placement or wait up to then.  Each is told newest first, every step being
a cause of the one above it: the move, the decision that made it, what was found on the queue, why
what waited there waited, and what had woken it.  The last step says how the task had come to
where all this began; in a ping-pong that is the same story once more.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace

from emulator.report import phrases
from emulator.report.history import PID_COLUMN, Entry, History
from emulator.report.story import Step, Teller
from emulator.report.words import duration_ns, moment, spaced, unbroken
from emulator.trace.reader import COLUMN_A, COLUMN_B
from emulator.tracepoints import (
    BOX_CHECK_PREEMPT,
    BOX_LOAD_BALANCE,
    BOX_SELECT_TASK_RQ,
    LB_MOVED,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
    MIGRATE_WAKEUP,
    PREEMPT_REFUSALS,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    STATE_LETTERS,
    TASK_PREEMPTED,
    TASK_RUNNING,
)
from emulator.types import NEVER, NSEC_PER_MSEC

PULLS = (MIGRATE_PERIODIC, MIGRATE_NEWIDLE, MIGRATE_NOHZ)

#: A preemption follows its test within this time: the way out of the interrupt.
RESCHED_NS_MAX = 2 * NSEC_PER_MSEC
#: A pass records its result this soon after it took a task.
PASS_NS_MAX = NSEC_PER_MSEC

#: Where the text of a step begins: behind its time and place.
TEXT_COLUMN = 24
TEXT_MIN = 30


class WhyError(Exception):
    """There is nothing to explain; the text says what there is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What happened, in a sentence, and its causes, newest first."""

    headline: str
    steps: tuple[Step, ...]


def explain(teller: Teller, pid: int, at_ns: int | None = None) -> Answer:
    """Return why a task was last moved; with a time, what was last done to it up to then.

    Raises WhyError where the rings say nothing about the task.
    """
    history = teller.history
    upto_ns = NEVER if at_ns is None else at_ns
    if pid not in history.comms or not pid:
        raise WhyError(f"no task has the pid {pid}; {_tasks(history)}")
    move = history.last((SCHED_MIGRATE_TASK,), {PID_COLUMN: pid}, upto_ns)
    if at_ns is None and move is not None:
        return _move(teller, move)
    wait = _wait(teller, pid, upto_ns, whole=at_ns is None)
    if wait is not None:
        return wait
    placed = history.last((BOX_SELECT_TASK_RQ,), {PID_COLUMN: pid}, upto_ns)
    preempted = _preempted(history, pid, upto_ns)
    latest = max((one.time_ns for one in (move, placed, preempted) if one is not None), default=-1)
    # A placement that moved the task is told as the move, which is recorded after it.
    if move is not None and move.time_ns == latest:
        return _move(teller, move)
    if placed is not None and placed.time_ns == latest:
        return _placement(teller, placed)
    if preempted is not None:
        return _preemption(teller, preempted)
    wait = _wait(teller, pid, upto_ns, whole=True)
    if wait is not None:
        return wait
    before = "" if at_ns is None else f" up to {moment(at_ns)}"
    raise WhyError(f"{history.who(pid)} was neither moved nor kept waiting{before}")


def pid_of(history: History, name: str) -> int:
    """Return the pid of the first task of that name; raise WhyError where there is none."""
    pids = sorted(pid for pid, comm in history.comms.items() if comm == name and pid)
    if not pids:
        raise WhyError(f"no task is called {name!r}; {_tasks(history)}")
    return pids[0]


def answer_lines(answer: Answer, width: int) -> Iterator[str]:
    """Yield an answer as text of that width."""
    yield from map(spaced, textwrap.wrap(unbroken(answer.headline), width))
    yield ""
    for number, step in enumerate(answer.steps):
        head = f"{moment(step.time_ns):>11}  {step.place:<9}"
        text = f"{step.link} {step.text}".lstrip() if number else step.text
        lines = textwrap.wrap(
            unbroken(text),
            max(width, TEXT_COLUMN + TEXT_MIN),
            initial_indent=f"{head:<{TEXT_COLUMN}}",
            subsequent_indent=" " * TEXT_COLUMN,
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from map(spaced, lines)


# -- Moves --------------------------------------------------------------------------------------


def _move(teller: Teller, move: Entry) -> Answer:
    pid, _prio, source, target, why = move.args
    who = teller.history.who(pid)
    phrase = phrases.migrate_phrase(why).format(orig=source, dest=target)
    headline = (
        f"{who} was moved from CPU {source} to CPU {target} at {moment(move.time_ns)}: {phrase}."
    )
    steps = [teller.step(move, _how(teller, move))]
    steps += _pull(teller, move) if why in PULLS else teller.steps(move.cause)
    steps += _earlier(teller, move)
    return Answer(headline, tuple(steps))


# Who did it, in whose context.
def _how(teller: Teller, move: Entry) -> str:
    history = teller.history
    pid, _prio, source, target, why = move.args
    who, current = history.who(pid), history.who(move.current)
    if why in PULLS:
        return f"{who} was taken off CPU {source}'s queue and put on CPU {target}'s"
    if why == MIGRATE_WAKEUP:
        return f"{who}, asleep until then, was sent to CPU {target} by its waker"
    if history.kind(move.current) == "migration":
        return f"the stopper {current} took the CPU from {who} and pushed it to CPU {target}"
    return f"{who} left CPU {source} for CPU {target}"


# The pass that pulls records its result after it has moved what it moves.
def _pull(teller: Teller, move: Entry) -> Iterator[Step]:
    pid, _prio, source, _target, _why = move.args
    passed = _pass_of(teller, move)
    if passed is not None:
        yield teller.step(passed)
        yield from teller.weighed(passed)
    yield from teller.steps(move.cause)
    history = teller.history
    queue = history.queue_at(source, move.time_ns, _own_position(move, source))
    since_ns = queue.waiting.get(pid)
    if since_ns is None:
        return
    waited = duration_ns(move.time_ns - since_ns)
    behind = history.who(queue.current)
    text = f"{history.who(pid)} had waited {waited} on CPU {source} behind {behind}"
    yield Step(since_ns, f"CPU {source}", text, "there")
    yield from teller.unserved(pid, source, since_ns, move.time_ns)
    yield from _taken(teller, pid, source, since_ns)


def _own_position(move: Entry, cpu: int) -> int | None:
    return move.position if move.place == cpu else None


def _pass_of(teller: Teller, move: Entry) -> Entry | None:
    _pid, _prio, source, target, _why = move.args
    others = [r for r in teller.history.readers.values() if not r.is_cpu]
    end_ns = move.time_ns + PASS_NS_MAX
    for entry in teller.history.between((BOX_LOAD_BALANCE,), move.time_ns, end_ns, others):
        if entry.args[:2] == (target, source) and entry.args[3] == LB_MOVED:
            return entry
    return None


# How the task had come to the CPU that it was moved from.
def _earlier(teller: Teller, move: Entry) -> Iterator[Step]:
    pid, _prio, source, target, why = move.args
    before = teller.history.last((SCHED_MIGRATE_TASK,), {PID_COLUMN: pid}, move.time_ns - 1)
    if before is None or before.args[3] != source:
        return
    ago = duration_ns(move.time_ns - before.time_ns)
    again = "in the same way"
    if before.args[4] != why:
        phrase = phrases.migrate_phrase(before.args[4]).format(orig=before.args[2], dest=source)
        again = f"for another reason: {phrase}"
    elif before.args[2] == target:
        again += ": it goes back and forth"
    text = (
        f"{teller.history.who(pid)} had come to CPU {source} from CPU {before.args[2]}, {ago} "
        f"before, {again}"
    )
    yield replace(teller.step(before, text), link="")


# -- Placements ---------------------------------------------------------------------------------


def _placement(teller: Teller, placed: Entry) -> Answer:
    pid, prev, _target, cpu, _rule = placed.args
    who = teller.history.who(pid)
    stayed = f"stayed on CPU {cpu}" if cpu == prev else f"was placed on CPU {cpu}"
    headline = f"{who} {stayed} when it was woken at {moment(placed.time_ns)}."
    steps = [teller.step(placed), *teller.weighed(placed), *teller.steps(placed.cause)]
    return Answer(headline, tuple(steps))


# -- Preemptions --------------------------------------------------------------------------------


def _preempted(history: History, pid: int, upto_ns: int) -> Entry | None:
    found: Entry | None = None
    for state in (TASK_RUNNING, TASK_PREEMPTED):
        where = {COLUMN_A: pid, COLUMN_A + 2: state}
        one = history.last((SCHED_SWITCH,), where, upto_ns)
        if one is not None and (found is None or one.time_ns > found.time_ns):
            found = one
    return found


def _preemption(teller: Teller, switch: Entry) -> Answer:
    history = teller.history
    pid, following = switch.args[0], switch.args[3]
    headline = (
        f"{history.who(pid)} lost CPU {switch.place} to {history.who(following)} at "
        f"{moment(switch.time_ns)}: it was preempted."
    )
    ran = teller.switch_in(pid, switch.time_ns - 1)
    length = f" after {duration_ns(switch.time_ns - ran.time_ns)}" if ran is not None else ""
    text = f"{history.who(following)} took the CPU from {history.who(pid)}{length}"
    steps = [teller.step(switch, text), *_taken(teller, pid, switch.place, switch.time_ns, switch)]
    return Answer(headline, tuple(steps))


# Why a task that ran had to give way: the test that said so, or a higher class.
def _taken(
    teller: Teller, pid: int, cpu: int, time_ns: int, switch: Entry | None = None
) -> Iterator[Step]:
    history = teller.history
    readers = [history.readers[cpu]]
    test = history.last((BOX_CHECK_PREEMPT,), {COLUMN_B: pid}, time_ns, readers)
    soon = test is not None and time_ns - test.time_ns <= RESCHED_NS_MAX
    if test is not None and soon and test.args[4] not in PREEMPT_REFUSALS:
        yield teller.step(test)
        yield from teller.steps(test.cause)
        # A tick serves who has waited longest: that is what there is to explain.
        since_ns = history.queue_at(cpu, test.time_ns).waiting.get(test.args[0])
        if since_ns is not None:
            waited = duration_ns(test.time_ns - since_ns)
            text = f"{history.who(test.args[0])} had waited {waited} for it until then"
            yield Step(since_ns, f"CPU {cpu}", text, "")
            yield from teller.unserved(test.args[0], cpu, since_ns, test.time_ns - 1)
    elif switch is not None:
        yield from teller.steps(switch.cause)


# -- Waits --------------------------------------------------------------------------------------


# The wait of a task that waits at that time; with ``whole``, its last one, over or not.
def _wait(teller: Teller, pid: int, upto_ns: int, whole: bool) -> Answer | None:
    history = teller.history
    woken = history.last((SCHED_WAKEUP,), {PID_COLUMN: pid}, upto_ns)
    if woken is None:
        return None
    ran = teller.switch_in(pid, upto_ns)
    over = ran is not None and ran.time_ns >= woken.time_ns
    moved = history.last((SCHED_MIGRATE_TASK,), {PID_COLUMN: pid}, upto_ns)
    if (over and not whole) or (moved is not None and moved.time_ns > woken.time_ns):
        return None
    cpu, since_ns = woken.args[2], woken.time_ns
    end_ns = ran.time_ns if over and ran is not None else min(upto_ns, history.end_ns)
    waited = duration_ns(end_ns - since_ns)
    who = history.who(pid)
    if over and ran is not None:
        headline = f"{who} ran on CPU {cpu} at {moment(end_ns)}, {waited} after it was woken."
    else:
        headline = f"{who} waits on CPU {cpu} at {moment(end_ns)}: woken {waited} before."
    steps: list[Step] = []
    if over and ran is not None:
        steps += _served(teller, ran)
    queue = history.queue_at(cpu, since_ns + 1)
    if queue.current and queue.current != pid:
        text = f"{history.who(queue.current)} had CPU {cpu}, since {moment(queue.since_ns)}"
        steps.append(Step(since_ns, f"CPU {cpu}", text, "while"))
    elif not queue.current:
        text = f"CPU {cpu} was idle and had to wake up"
        steps.append(Step(since_ns, f"CPU {cpu}", text, "but"))
    said = {(step.time_ns, step.text) for step in steps}
    for step in teller.unserved(pid, cpu, since_ns, end_ns):
        if (step.time_ns, step.text) not in said:  # it may have preempted at once
            steps.append(step)
    return Answer(headline, tuple(steps))


# How a task got the CPU at last: who gave it up, and why.
def _served(teller: Teller, ran: Entry) -> Iterator[Step]:
    history = teller.history
    prev, _prio, state, pid = ran.args[:4]
    who, before, cpu = history.who(pid), history.who(prev), ran.place
    if not prev:
        yield teller.step(ran, f"{who} got CPU {cpu}, which had nothing else to do")
    elif history.kind(prev) == "migration":
        pushed = history.last((SCHED_MIGRATE_TASK,), {COLUMN_A + 2: cpu}, ran.time_ns, [ran.reader])
        gone = "" if pushed is None else f" had pushed {history.who(pushed.args[0])} away"
        yield teller.step(ran, f"{who} got CPU {cpu} after {before}{gone}")
        if pushed is not None:
            yield from (teller.step(one) for one in list(teller.chain(pushed.cause))[:1])
    elif state in (TASK_RUNNING, TASK_PREEMPTED):
        yield teller.step(ran, f"{who} took CPU {cpu} from {before}")
        tests = list(_taken(teller, prev, cpu, ran.time_ns))
        yield from tests[:1]
    else:
        letter = STATE_LETTERS.get(state, "?")
        yield teller.step(ran, f"{who} got CPU {cpu} when {before} went to sleep (state {letter})")


def _tasks(history: History) -> str:
    names = sorted({history.kind(pid) or "?" for pid in history.comms if pid})
    return f"there are tasks called {', '.join(names)}" if names else "the rings name no task"
