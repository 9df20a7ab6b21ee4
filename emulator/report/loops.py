"""Loops: what moves a task again and again, by the chain of decisions that returns to its start.

Theory of operation
-------------------
A task that is moved often is moved by few kinds of chains.  Its moves are sorted by what made them,
and each sort that is frequent enough to be a loop gets the name of its pattern:

``follows_completions``        woken by the worker that ends its IO, it goes to the other of two CPUs
``drifts_after_completions``   the same, but from CPU to CPU round the cache
``woken_elsewhere``            woken by others, and placed on another CPU
``pushed_from_bound_kthread``  pushed by active balance, while a bound kthread waited behind it
``pushed_from_ksoftirqd``      the same, and that kthread was ksoftirqd, with nobody else bound there
``pushed``                     pushed by active balance, for another reason
``pulled_while_kworker_runs``  pulled while a worker, which had taken its CPU, ran
``pulled``                     pulled while it waited behind another task
``tick_locked``                whatever moves it, its moves are whole ticks apart

Who did a move is in its record.  What else a pattern claims, that a chain began with a completion
or that a bound kthread waited, is looked up for a few moves of each sort, evenly spread.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from emulator.report.extract import Extract, Migration
from emulator.report.history import History
from emulator.report.words import duration_ns
from emulator.tracepoints import (
    MIGRATE_ACTIVE,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
    MIGRATE_WAKEUP,
    WORKQUEUE_QUEUE_WORK,
)
from emulator.types import cpulist_format

Loop = dict[str, Any]
#: What is looked up about a move.
Test = Callable[[Migration, History], bool]

PULLS = (MIGRATE_PERIODIC, MIGRATE_NEWIDLE, MIGRATE_NOHZ)

#: What happens less often than this is no loop.
LOOP_PER_S = 3.0
LOOP_MOVES_MIN = 8
#: How many moves of a sort are looked at closely.
SAMPLES = 24
#: From this share of moves straight back on, a task goes back and forth between two CPUs.
BACK_SHARE = 0.6
#: A gap is whole ticks if it is so within this share of a tick; and so many gaps must be.
TICK_SLACK = 0.02
TICK_SHARE = 0.8
#: How far a cause chain is followed to its completion.
LINKS_MAX = 10

#: What a loop is called; ``task``, ``cpus`` as words.
SENTENCES = {
    "follows_completions": "{task} follows its completions to and fro between CPUs {cpus}",
    "drifts_after_completions": "{task} runs away from its completions, round CPUs {cpus}",
    "woken_elsewhere": "{task} is placed on another CPU whenever it is woken, round CPUs {cpus}",
    "pushed_from_bound_kthread": "{task} is pushed away from its bound kworker, round CPUs {cpus}",
    "pushed_from_ksoftirqd": "{task} is pushed away from ksoftirqd, which has its completions, round "
    "CPUs {cpus}",
    "pushed": "{task} is pushed away by active balance, round CPUs {cpus}",
    "pulled_while_kworker_runs": "{task} is pulled away while its kworker runs, round CPUs {cpus}",
    "pulled": "{task} is pulled away while it waits, round CPUs {cpus}",
    "tick_locked": "{task} is moved in time with the tick, most often every {gap}",
}


def loops(
    found: Extract, pids: Iterable[int], history: History, tick_ns: int = 0
) -> list[dict[str, Any]]:
    """Return the loops that these tasks are in, the most frequent of each task first.

    A loop is ``{pattern, task, rate_per_s, cpus, share}``: how often per second, among which CPUs,
    and which share of the task's moves it makes.  ``tick_locked`` has ``gap_ns`` besides.
    """
    result: list[Loop] = []
    for pid in pids:
        moves = [move for move in found.migrations if move.pid == pid]
        result += _loops_of(found, pid, moves, history, tick_ns)
    return result


def sentence(loop: Mapping[str, Any]) -> str:
    """Return what a loop is, in words and figures."""
    words = SENTENCES.get(loop["pattern"], "{task}: " + str(loop["pattern"]))
    mask = sum(1 << cpu for cpu in loop["cpus"])
    cpus = " and ".join(map(str, loop["cpus"])) if len(loop["cpus"]) == 2 else cpulist_format(mask)
    text = words.format(task=loop["task"], cpus=cpus, gap=duration_ns(loop.get("gap_ns", 0)))
    return f"{text}: {loop['rate_per_s']:,.1f}/s, {loop['share']:.0%} of its moves"


def _loops_of(
    found: Extract, pid: int, moves: Sequence[Migration], history: History, tick_ns: int
) -> list[Loop]:
    sorts: dict[str, list[Migration]] = {}
    for move in moves:
        sorts.setdefault(_sort(found, move), []).append(move)
    named: list[Loop] = []
    for sort, some in sorts.items():
        if _frequent(found, some):
            named.append(_loop(found, pid, _pattern(sort, some, history), some, len(moves)))
    named.sort(key=lambda loop: (-loop["rate_per_s"], loop["pattern"]))
    locked = _tick_locked(found, pid, moves, tick_ns)
    return [*named, locked] if locked is not None else named


def _sort(found: Extract, move: Migration) -> str:
    by_kworker = found.kind(move.current) == "kworker"
    if move.why == MIGRATE_WAKEUP:
        return "woken by kworker" if by_kworker else "woken"
    if move.why == MIGRATE_ACTIVE:
        return "pushed"
    if move.why in PULLS:
        return "pulled from kworker" if by_kworker else "pulled"
    return ""


def _frequent(found: Extract, moves: Sequence[Migration]) -> bool:
    window_s = (found.end_ns - found.start_ns) / 1e9
    return len(moves) >= LOOP_MOVES_MIN and len(moves) / window_s >= LOOP_PER_S


def _pattern(sort: str, moves: Sequence[Migration], history: History) -> str:
    match sort:
        case "woken by kworker" if _most(moves, history, _began_with_completion):
            back = sum(later.dest_cpu == earlier.orig_cpu for earlier, later in pairwise(moves))
            to_and_fro = back >= BACK_SHARE * (len(moves) - 1)
            return "follows_completions" if to_and_fro else "drifts_after_completions"
        case "woken" | "woken by kworker":
            return "woken_elsewhere"
        case "pushed":
            if not _most(moves, history, _bound_waited):
                return "pushed"
            alone = _most(moves, history, _ksoftirqd_waited)
            return "pushed_from_ksoftirqd" if alone else "pushed_from_bound_kthread"
        case "pulled from kworker":
            return "pulled_while_kworker_runs"
        case _:
            return sort or "other"


def _most(moves: Sequence[Migration], history: History, holds: Test) -> bool:
    step = max(1, len(moves) // SAMPLES)
    answers = [holds(move, history) for move in moves[::step][:SAMPLES]]
    return sum(answers) * 2 >= len(answers)


def _began_with_completion(move: Migration, history: History) -> bool:
    cause = move.cause
    for _link in range(LINKS_MAX):
        entry = history.at(cause)
        if entry is None:
            return False
        if entry.event == WORKQUEUE_QUEUE_WORK:
            return True
        cause = entry.cause
    return False


def _bound_waited(move: Migration, history: History) -> bool:
    queue = history.queue_at(move.orig_cpu, move.time_ns)
    return any(history.is_bound(pid) for pid in queue.waiting)


def _ksoftirqd_waited(move: Migration, history: History) -> bool:
    queue = history.queue_at(move.orig_cpu, move.time_ns)
    bound = [history.kind(pid) for pid in queue.waiting if history.is_bound(pid)]
    # The stopper that pushes may be queued already.
    return set(bound) - {"migration"} == {"ksoftirqd"}


def _loop(found: Extract, pid: int, pattern: str, moves: Sequence[Migration], total: int) -> Loop:
    window_s = (found.end_ns - found.start_ns) / 1e9
    return {
        "pattern": pattern,
        "task": f"{found.comm(pid)}/{pid}",
        "rate_per_s": round(len(moves) / window_s, 2),
        "cpus": _cpus(moves, to_and_fro=pattern == "follows_completions"),
        "share": round(len(moves) / total, 4),
    }


# Of a task that goes to and fro, the pair on which it spent most moves.
def _cpus(moves: Sequence[Migration], to_and_fro: bool) -> list[int]:
    if not to_and_fro:
        return sorted({cpu for move in moves for cpu in (move.orig_cpu, move.dest_cpu)})
    pairs: dict[tuple[int, int], int] = {}
    for move in moves:
        pair = (min(move.orig_cpu, move.dest_cpu), max(move.orig_cpu, move.dest_cpu))
        pairs[pair] = pairs.get(pair, 0) + 1
    best = max(sorted(pairs), key=pairs.__getitem__)
    return [*best]


def _tick_locked(found: Extract, pid: int, moves: Sequence[Migration], tick_ns: int) -> Loop | None:
    if not tick_ns or not _frequent(found, moves):
        return None
    gaps = [later.time_ns - earlier.time_ns for earlier, later in pairwise(moves)]
    ticks: dict[int, int] = {}
    for gap in gaps:
        count = round(gap / tick_ns)
        if count and abs(gap - count * tick_ns) <= TICK_SLACK * tick_ns:
            ticks[count] = ticks.get(count, 0) + 1
    locked = sum(ticks.values())
    if locked < TICK_SHARE * len(gaps):
        return None
    often = max(sorted(ticks), key=lambda count: ticks[count])
    loop = _loop(found, pid, "tick_locked", moves, len(moves))
    return {**loop, "share": round(locked / len(gaps), 4), "gap_ns": often * tick_ns}
