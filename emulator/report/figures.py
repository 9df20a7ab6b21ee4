"""The figures of a run, by the names and definitions of the oracle.

Theory of operation
-------------------
Most figures come from one pass over the rings (:mod:`emulator.report.extract`) inside the window
``[warmup, end)``; what only a node can know (the balancer's counters, a program's latencies) comes
from the nodes' books.  Overall figures count all submitters together; ``submitters`` repeats the
ones that make sense for a single task.

* ``iops``: completed requests (``block_rq_complete``), or completed AIOs where that event is off.
* ``migration_gap_us``: time between successive migrations of a submitter; ``residence_us``: from
  the first time it runs on its new CPU until it is moved away again.
* ``queue_to_start_us``: ``workqueue_queue_work`` to ``workqueue_execute_start`` of the completion
  works; ``works_per_kworker_run``: those works over all switches to a kworker.
* ``completions``: of the works that complete IOs (and of writes completed on the spot by policy),
  how many ran on the CPU that had submitted them, on another one of its cache, on any other; on how
  many CPUs; what was charged for cache lines; interrupts from other CPUs and wakeups of idle CPUs in
  the whole box; what the completion policy decided how often, and what a decision took (mean).
* ``items``: of the works that a program ``works`` queues, by task and number, how many were done and
  the mean time from the queueing until then.
* ``unbound_works``: of the whole run, works of unbound workqueues queued, workers created for them,
  wakeups that brought a worker back to its pod.
* ``tags``: of the whole run, how often a task slept for a tag, how often a device answered
  BLK_STS_RESOURCE, and how often a task met a hardware queue that was being drained.
* ``…_wake_to_run_us``: ``sched_waking`` to the switch in.  A waking of a task that was still on
  its CPU is not one, and of several wakings before a run the first counts.
* ``run_length_us``: from switch in to switch out, by comm; per-CPU kthreads by kind.
* ``task_cpu_share``: the share of one CPU that each task of a comm got: n, their sum, the least and
  the greatest; of tasks that do not belong to one CPU.
* ``user_migrations``: changes of CPU that such a task notices, between two stretches that it runs:
  the sum over the tasks of a comm, and the most of one of them.
* ``programs``: what the programs measured themselves, by comm: ``wake_us`` from the time for which a
  wakeup was due until the program runs in user space, ``response_us`` and ``round_us`` from there
  until the work of the period, or the round, is done; counts as the programs name them.

Distributions are ``{n, mean, p10, p50, p90, p99, max}``, in us.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from emulator.report.device_figures import devices, interrupts
from emulator.report.distribution import (
    Distribution,
    distribution_of_summary,
    distribution_us,
    histogram_us,
)
from emulator.report.extract import Extract, Migration, Works, extract
from emulator.report.history import History
from emulator.report.loops import loops
from emulator.trace.reader import RingReader
from emulator.tracepoints import (
    COMPLETION_WHYS,
    IDLE_TYPES,
    LB_ACTIVE,
    LB_BALANCED,
    LB_FAILED,
    MIGRATE_ACTIVE,
    MIGRATE_CAUSES,
    MIGRATE_FORK,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
)
from emulator.types import NSEC_PER_SEC
from emulator.workload import merge_books

#: The work in which a direct IO completes; where none ran, the most frequent work counts.
DIO_WORK = "iomap_dio_complete_work"

#: What idle and newidle load balancing pulls; the oracle's "pull".
PULL_CAUSES = tuple(
    MIGRATE_CAUSES[why] for why in (MIGRATE_PERIODIC, MIGRATE_NEWIDLE, MIGRATE_NOHZ)
)

#: Tasks whose CPU share is stated at least: a thousandth of a CPU.
TASK_CPU_MIN = 0.001

Figures = dict[str, Any]

#: figure -> counter of the CPUs
TAG_COUNTERS = {
    "waits": "tag_waits",
    "busy": "blk_sts_resource",
    "inactive_waits": "inactive_waits",
}


class RunData:
    """What figures are made of: the rings of a run, its window, its submitters, its books.

    ``submitters`` are the pids that count as submitters (the tasks marked as figure); without any,
    whoever completed AIOs is one.  ``books`` are the final books of the nodes by node id;
    ``tick_ns`` is the length of a tick, 0 if nothing is to be said about it.
    """

    __slots__ = ("books", "end_ns", "readers", "start_ns", "submitters", "tick_ns")

    def __init__(
        self,
        readers: Sequence[RingReader],
        start_ns: int,
        end_ns: int,
        submitters: Sequence[int] = (),
        books: Mapping[int, Mapping[str, Any]] | None = None,
        tick_ns: int = 0,
    ) -> None:
        self.readers = readers
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.submitters = submitters
        self.books = books or {}
        self.tick_ns = tick_ns


def figures(run: RunData) -> Figures:
    """Return every figure of a run under its name in ``results.json``."""
    found = extract(run.readers, run.start_ns, run.end_ns)
    known = [pid for pid in sorted(run.submitters) if pid in found.comms]
    pids = known or sorted(found.aio)
    window_s = (run.end_ns - run.start_ns) / NSEC_PER_SEC
    programs = _programs(run.books)
    return {
        "window_s": window_s,
        **_io_figures(found, pids, window_s),
        **_migration_figures(found, pids, window_s),
        **_work_figures(found),
        "items": _items(run.books),
        "unbound_works": _unbound_works(run.books),
        "tags": {name: _counted(run.books, counter) for name, counter in TAG_COUNTERS.items()},
        "completions": _completions(found, run.books, window_s),
        "devices": devices(run.books),
        "interrupts": interrupts(run.books),
        **_task_figures(found, pids, window_s),
        "loops": loops(found, pids, History(run.readers), run.tick_ns),
        "balance": _balance(run, found),
        "slat_us": _latency(programs, pids, "slat_ns"),
        "clat_us": _latency(programs, pids, "clat_ns"),
        "programs": _program_figures(found, run.books),
        "submitters": {
            f"{found.comm(pid)}/{pid}": _submitter(found, pid, window_s, programs) for pid in pids
        },
        "records": found.records,
        "records_lost": found.lost,
        "bugs": found.bugs,
        "warnings": found.warnings,
    }


def lookup(figures_: Mapping[str, Any], path: str) -> Any:
    """Return the figure at a path such as ``migrations_by_cause.wakeup``, or None.

    ``migrations_by_cause.pull`` is the sum of periodic, newidle and nohz.
    """
    if path == "migrations_by_cause.pull":
        causes = figures_.get("migrations_by_cause")
        return None if causes is None else sum(causes.get(name, 0) for name in PULL_CAUSES)
    value: Any = figures_
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _io_figures(found: Extract, pids: list[int], window_s: float) -> Figures:
    aios = sum(found.aio.values())
    ended = found.rq_completes
    ios = sum(ended.values()) or aios
    inline = sum(found.aio_inline.values())
    return {
        "ios": ios,
        "iops": round(ios / window_s, 1),
        "inline_completion_fraction": round(inline / aios, 4) if aios else None,
        "migrations_per_io": _ratio(len(_migrations(found, pids)), ios, 4),
        "completions_by_cpu": {
            str(cpu): round(ended[cpu] / ios, 4) for cpu in sorted(ended) if ios
        },
        "events_per_io": _ratio(found.records, ios, 2),
    }


def _migration_figures(found: Extract, pids: list[int], window_s: float) -> Figures:
    migrations = _migrations(found, pids)
    per_pid = [[move for move in migrations if move.pid == pid] for pid in pids]
    gaps = [gap for moves in per_pid for gap in _gaps(moves)]
    stays = [ns for moves in per_pid for ns in _residences(moves, found)]
    histogram = histogram_us(gaps)
    return {
        "migrations": len(migrations),
        "migrations_per_s": round(len(migrations) / window_s, 2),
        "migrations_by_cause": _by_cause(migrations),
        "migrations_by_context": _by_context(migrations, found),
        "migrations_by_second": _by_second(migrations, found),
        "residence_us": distribution_us(stays),
        "migration_gap_us": distribution_us(gaps),
        "migration_gap_hist": histogram,
        "migration_gap_share": {
            name: round(count / len(gaps), 4) for name, count in histogram.items()
        },
    }


def _work_figures(found: Extract) -> Figures:
    works = _completion_works(found)
    runs = sum(len(times) for times in _of_kind(found.ins, found, "kworker"))
    waits = [ns for pid in found.ins if found.kind(pid) == "kworker" for ns in _waits(found, pid)]
    return {
        "works": works.started,
        "works_per_kworker_run": _ratio(works.started, runs, 2),
        "queue_to_start_us": distribution_us(works.delays),
        "queue_to_start_hist": histogram_us(works.delays),
        "kworker_wake_to_run_us": distribution_us(waits),
        "work_functions": {
            name: {"runs": one.started, "queue_to_start_us": distribution_us(one.delays)}
            for name, one in sorted(found.works.items())
        },
    }


def _items(books: Mapping[int, Mapping[str, Any]]) -> Figures:
    totals: dict[str, list[int]] = {}
    for book in books.values():
        for name, value in book.get("counters", {}).items():
            if name.startswith("item."):
                item, _, what = name.removeprefix("item.").rpartition(".")
                totals.setdefault(item, [0, 0])[what == "ns"] += value
    nested: Figures = {}
    for item, (nr, total_ns) in sorted(totals.items()):
        task, _, number = item.rpartition(".")
        nested.setdefault(task, {})[number] = {"n": nr, "done_us": round(total_ns / nr / 1000, 1)}
    return nested


def _counted(books: Mapping[int, Mapping[str, Any]], counter: str) -> int:
    return sum(book.get("counters", {}).get(counter, 0) for book in books.values())


def _unbound_works(books: Mapping[int, Mapping[str, Any]]) -> Figures:
    for book in books.values():
        if "unbound" in book:
            return {name: book["unbound"][name] for name in ("queued", "created", "repatriated")}
    return {}


def _completions(
    found: Extract, books: Mapping[int, Mapping[str, Any]], window_s: float
) -> Figures:
    by_cpu = [book["completed"] for book in books.values() if "completed" in book]
    local, llc, other, refill_ns = (
        (sum(column) for column in zip(*by_cpu, strict=True)) if by_cpu else (0,) * 4
    )
    total = local + llc + other
    decided = sum(found.decisions.values())
    return {
        "total": total,
        "local_fraction": _ratio(local, total, 4),
        "remote_llc_fraction": _ratio(llc, total, 4),
        "remote_other_fraction": _ratio(other, total, 4),
        "cpus": sum(any(counts[:3]) for counts in by_cpu),
        "cache_refill_us": round(refill_ns / 1000, 1),
        "ipis_per_s": round(found.ipis / window_s, 1),
        "idle_wakeups_per_s": round(found.idle_wakeups / window_s, 1),
        "decisions": {
            COMPLETION_WHYS[why]: count for why, count in sorted(found.decisions.items())
        },
        "decision_ns": _ratio(found.decision_ns, decided, 1),
    }


def _task_figures(found: Extract, pids: list[int], window_s: float) -> Figures:
    runs: dict[str, list[int]] = {}
    for pid, lengths in sorted(found.runs.items()):
        runs.setdefault(found.kind(pid), []).extend(lengths)
    window_ns = found.end_ns - found.start_ns
    shares = sorted(((ns / window_ns, pid) for pid, ns in found.cpu_ns.items()), reverse=True)
    return {
        "switches": found.switches,
        "switches_per_s": round(found.switches / window_s, 1),
        "submitter_wake_to_run_us": distribution_us(
            ns for pid in pids for ns in _waits(found, pid)
        ),
        "run_length_us": {kind: distribution_us(lengths) for kind, lengths in runs.items()},
        "cpu_utilisation": {
            str(cpu): round(busy / window_ns, 4) for cpu, busy in sorted(found.busy_ns.items())
        },
        "task_cpu_fraction": {
            f"{found.comm(pid)}/{pid}": round(share, 4)
            for share, pid in shares
            if share >= TASK_CPU_MIN
        },
        "task_cpu_share": _shares_by_comm(found, window_ns),
        "user_migrations": _user_migrations(found),
    }


def _shares_by_comm(found: Extract, window_ns: int) -> Figures:
    by_comm: dict[str, list[float]] = {}
    for pid, ns in sorted(found.cpu_ns.items()):
        if pid and not found.is_per_cpu_kthread(pid):
            by_comm.setdefault(found.comm(pid), []).append(ns / window_ns)
    return {
        comm: {
            "n": len(shares),
            "total": round(sum(shares), 4),
            "min": round(min(shares), 4),
            "max": round(max(shares), 4),
        }
        for comm, shares in by_comm.items()
    }


def _user_migrations(found: Extract) -> Figures:
    moves: dict[int, list[Migration]] = {}
    for migration in found.migrations:
        moves.setdefault(migration.pid, []).append(migration)
    by_comm: dict[str, list[int]] = {}
    for pid in sorted(found.cpu_ns):
        if pid and not found.is_per_cpu_kthread(pid):
            noticed = _noticed(moves.get(pid, []), found.ins.get(pid, []))
            by_comm.setdefault(found.comm(pid), []).append(noticed)
    return {comm: {"total": sum(one), "max": max(one)} for comm, one in by_comm.items()}


# Of the moves between two runs only where they led counts, and only if that is another CPU.
def _noticed(moves: list[Migration], ins: list[int]) -> int:
    if not moves:
        return 0
    count, index = 0, 0
    ran_on = cpu = moves[0].orig_cpu
    for time_ns in ins:
        while index < len(moves) and moves[index].time_ns <= time_ns:
            cpu = moves[index].dest_cpu
            index += 1
        count += cpu != ran_on
        ran_on = cpu
    return count


def _submitter(
    found: Extract, pid: int, window_s: float, programs: Mapping[int, Mapping[str, Any]]
) -> Figures:
    moves = [move for move in found.migrations if move.pid == pid]
    return {
        "iops": round(found.aio[pid] / window_s, 1),
        "cpu_fraction": round(found.cpu_ns[pid] / (found.end_ns - found.start_ns), 4),
        "migrations_per_s": round(len(moves) / window_s, 2),
        "migrations_by_cause": _by_cause(moves),
        "residence_us": distribution_us(_residences(moves, found)),
        "migration_gap_us": distribution_us(_gaps(moves)),
        "submitter_wake_to_run_us": distribution_us(_waits(found, pid)),
        "run_length_us": distribution_us(found.runs.get(pid, ())),
        "inline_completion_fraction": _ratio(found.aio_inline[pid], found.aio[pid], 4),
        "slat_us": _latency(programs, [pid], "slat_ns"),
        "clat_us": _latency(programs, [pid], "clat_ns"),
    }


# -- Migrations ---------------------------------------------------------------------------------


def _migrations(found: Extract, pids: list[int]) -> list[Migration]:
    wanted = set(pids)
    return [migration for migration in found.migrations if migration.pid in wanted]


def _by_cause(migrations: Iterable[Migration]) -> dict[str, int]:
    counts = {name: 0 for why, name in MIGRATE_CAUSES.items() if why != MIGRATE_FORK}
    for migration in migrations:
        name = MIGRATE_CAUSES.get(migration.why, "unknown")
        counts[name] = counts.get(name, 0) + 1
    return counts


# As the oracle names them: "wakeup by kworker".
def _by_context(migrations: Iterable[Migration], found: Extract) -> dict[str, int]:
    counts: dict[str, int] = {}
    for migration in migrations:
        name = MIGRATE_CAUSES.get(migration.why, "unknown")
        context = f"{name} by {found.kind(migration.current)}"
        counts[context] = counts.get(context, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_second(migrations: Iterable[Migration], found: Extract) -> list[int]:
    seconds = (found.end_ns - found.start_ns + NSEC_PER_SEC - 1) // NSEC_PER_SEC
    counts = [0] * seconds
    for migration in migrations:
        counts[(migration.time_ns - found.start_ns) // NSEC_PER_SEC] += 1
    return counts


def _gaps(moves: list[Migration]) -> list[int]:
    return [later.time_ns - earlier.time_ns for earlier, later in pairwise(moves)]


# A stay begins when the task first runs on its new CPU; one moved on before that has not stayed.
def _residences(moves: list[Migration], found: Extract) -> list[int]:
    stays: list[int] = []
    if not moves:
        return stays
    ins = iter(found.ins.get(moves[0].pid, ()))
    arrived = next(ins, None)
    for earlier, later in pairwise(moves):
        while arrived is not None and arrived < earlier.time_ns:
            arrived = next(ins, None)
        if arrived is not None and arrived <= later.time_ns:
            stays.append(later.time_ns - arrived)
    return stays


# -- Waiting ------------------------------------------------------------------------------------

_OUT, _WAKING, _IN = 0, 1, 2


# The order at one instant is switch out, waking, switch in.
def _waits(found: Extract, pid: int) -> list[int]:
    events = [(time_ns, _OUT) for time_ns in found.outs.get(pid, ())]
    events += [(time_ns, _WAKING) for time_ns in found.wakings.get(pid, ())]
    events += [(time_ns, _IN) for time_ns in found.ins.get(pid, ())]
    events.sort()
    waits: list[int] = []
    running, woken = False, -1
    for time_ns, what in events:
        if what == _WAKING:
            if not running and woken < 0:
                woken = time_ns
            continue
        running = what == _IN
        if running and woken >= 0:
            waits.append(time_ns - woken)
        woken = -1
    return waits


def _completion_works(found: Extract) -> Works:
    if DIO_WORK in found.works or not found.works:
        return found.works.get(DIO_WORK, Works())
    return max(found.works.values(), key=lambda works: works.started)


def _of_kind(table: Mapping[int, list[int]], found: Extract, kind: str) -> list[list[int]]:
    return [times for pid, times in table.items() if found.kind(pid) == kind]


# -- Books --------------------------------------------------------------------------------------


# The balancer counts from the warmup on.
def _balance(run: RunData, found: Extract) -> dict[str, Any]:
    for book in run.books.values():
        if "balance" in book:
            return dict(book["balance"])
    return _balance_of_passes(found)


# Without the balancer's books its trace says nearly as much.
def _balance_of_passes(found: Extract) -> dict[str, Any]:
    pushed = sum(1 for move in found.migrations if move.why == MIGRATE_ACTIVE)
    result: dict[str, Any] = {}
    for idle, name in enumerate(IDLE_TYPES):
        results = [outcome for kind, outcome in found.passes if kind == idle]
        result[name] = {
            "calls": len(results),
            "balanced": results.count(LB_BALANCED),
            "failed": results.count(LB_FAILED),
            "active_kicked": results.count(LB_ACTIVE),
        }
    return {**result, "active_pushed": pushed} if found.passes else {}


# A program has books on every CPU on which its task has been.
def _programs(books: Mapping[int, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    parts: dict[int, list[list[Any]]] = {}
    for book in books.values():
        for pid, part in book.get("programs", {}).items():
            parts.setdefault(int(pid), []).append(part)
    return {pid: merge_books(found) for pid, found in parts.items()}


#: What programs measure, besides fio: their names, and those of the figures.
_PROGRAM_STATS = {
    "wait_ns": "wait_us",
    "wake_ns": "wake_us",
    "response_ns": "response_us",
    "round_ns": "round_us",
    "write_ns": "write_us",
    "fsync_ns": "fsync_us",
    "operation_ns": "operation_us",
}


# By comm; the parts that the CPUs and the tasks of one comm keep make one whole.
def _program_figures(found: Extract, books: Mapping[int, Mapping[str, Any]]) -> Figures:
    parts: dict[tuple[str, str], list[list[Any]]] = {}
    for book in books.values():
        for pid, part in book.get("programs", {}).items():
            parts.setdefault((found.comm(int(pid)), part[0]), []).append(part)
    result: Figures = {}
    for (comm, _program), kept in sorted(parts.items()):
        whole = merge_books(kept)
        stats = {
            figure: distribution_of_summary(dict(whole[name]))
            for name, figure in _PROGRAM_STATS.items()
            if name in whole
        }
        if stats:
            counts = {name: value for name, value in whole.items() if isinstance(value, int)}
            result[comm] = stats | counts
    return result


# A program keeps a latency as one summary in ns, or as one per direction: the busier one counts.
def _latency(
    programs: Mapping[int, Mapping[str, Any]], pids: Iterable[int], name: str
) -> Distribution | None:
    summaries: list[dict[str, Any]] = []
    for pid in pids:
        book = programs.get(pid, {})
        places = (book, book.get("write", {}), book.get("read", {}))
        summaries += [dict(place[name]) for place in places if name in place]
    if not summaries:
        return None
    return distribution_of_summary(max(summaries, key=lambda summary: int(summary.get("n", 0))))


def _ratio(part: int, whole: int, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None
