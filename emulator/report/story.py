"""Causes in words: a record, what led to it, and what led to that.

Theory of operation
-------------------
Every record of a decision names the record that led to it.  A :class:`Teller` walks that chain and
says each link in words, by the tables of :mod:`emulator.report.phrases`; records that their
neighbours imply are passed over, and an event without a phrase is quoted as the log shows it.

Some answers are in no single record: who ran and who waited when a balance pass looked, how often
it had failed, what a preemption test had answered.  These come from :class:`History`.

Decisions may be recorded in several records: what was weighed comes just before what was decided,
of the same task or CPU, in the same instant.  Such records are told with the decision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from emulator.completion import SIGNALS
from emulator.report import phrases
from emulator.report.history import PID_COLUMN, Entry, History
from emulator.report.words import duration_ns, moment
from emulator.trace.ftrace import Lines
from emulator.trace.reader import CAUSES_MAX, COLUMN_A, COLUMN_D, RingReader
from emulator.tracepoints import (
    BOX_CHECK_PREEMPT,
    BOX_LOAD_BALANCE,
    BOX_NOHZ_KICK,
    BOX_SELECT_TASK_RQ,
    F_HARDIRQ,
    F_SOFTIRQ,
    IDLE_TYPES,
    LB_ACTIVE,
    LB_FAILED,
    PREEMPT_NO_GRANULARITY,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKING,
    SOFTIRQ_NAMES,
    STATE_LETTERS,
    TRACEPOINTS,
    WORKQUEUE_QUEUE_WORK,
)
from emulator.types import CPU_NEWLY_IDLE

#: How many waiting tasks are named.
WAITERS_MAX = 3

#: What joins a record to the one that it led to, where that is not simply a "because".
LINKS = {"box_nohz_kick": "it looked because", "box_lb_imbalance": ""}

#: How many records just before a decision are looked at for what was weighed.
WEIGHED_MAX = 6

#: Decisions that may come with records of what was weighed; these have the same first argument.
WEIGHED = (BOX_LOAD_BALANCE, BOX_SELECT_TASK_RQ)


@dataclass(frozen=True, slots=True)
class Step:
    """One link of a chain: when, where (a CPU, or a node's name), and what, as a clause."""

    time_ns: int
    place: str
    text: str
    link: str = "because"  #: what joins it to the step above


class Teller:
    """Tells single records and what led to them, of one run.

    ``rules`` are the names of the rules that the run's kernel went by beyond those of v5.4.
    """

    __slots__ = ("_extras", "_lines", "history", "rules")

    def __init__(self, history: History, rules: frozenset[str] = frozenset()) -> None:
        self.history = history
        self.rules = rules
        self._lines: dict[int, Lines] = {}
        self._extras: dict[str, Callable[[Entry], dict[str, str]]] = {
            "sched_waking": self._waking,
            "sched_migrate_task": self._migrate,
            "box_select_task_rq": self._select,
            "box_check_preempt": lambda entry: {"answer": self.answer(entry)},
            "box_wake_affine": self._affine,
            "box_lb_imbalance": self._weighed_groups,
            "box_nohz_kick": self._kicked,
            "box_completion": self._chose,
            "box_saturation": self._asked,
            "box_load_balance": lambda entry: {"passed": self._passed(entry)},
            "workqueue_execute_start": self._execute,
            "workqueue_queue_work": self._queued,
        }

    # -- One record ------------------------------------------------------------------------------

    def step(self, entry: Entry, text: str = "") -> Step:
        """Return a record as a step, in its own words unless others are given."""
        return Step(entry.time_ns, self.place(entry), text or self.say(entry))

    def say(self, entry: Entry) -> str:
        """Return what a record says, or nothing where its neighbours say it all."""
        template = phrases.EVENT_PHRASES.get(entry.name)
        if template is None:
            return self._quote(entry)
        if not template or self._is_implied(entry):
            return ""
        fields = self._fields(entry)
        extra = self._extras.get(entry.name)
        return template.format(**(fields | (extra(entry) if extra else {})))

    # A softirq that queues a work wakes the worker: the work is what there is to say.
    def _is_implied(self, entry: Entry) -> bool:
        cause = self.history.at(entry.cause) if entry.event == SCHED_WAKING else None
        return cause is not None and cause.event == WORKQUEUE_QUEUE_WORK

    def place(self, entry: Entry) -> str:
        """Return where a record was made."""
        name = entry.reader.node_name
        if entry.reader.is_cpu:
            return f"CPU {entry.place}"
        return "balancer" if name == "coordinator" else name.removeprefix("dev-")

    def answer(self, entry: Entry) -> str:
        """Return what a preemption test answered, and by which comparison."""
        pid, curr, vdiff, gran, why = entry.args
        who, runs = self.history.who(pid), self.history.who(curr)
        if why == PREEMPT_NO_GRANULARITY and vdiff <= 0:
            return f"{who} did not preempt {runs}: its own vruntime was {duration_ns(-vdiff)} ahead"
        text = phrases.preempt_phrase(why).format(
            pid=who, curr=runs, vdiff=duration_ns(vdiff), gran=duration_ns(gran)
        )
        return (
            text.replace(f"{duration_ns(vdiff)} earlier", f"{duration_ns(-vdiff)} later")
            if vdiff < 0
            else text
        )

    def _fields(self, entry: Entry) -> dict[str, str]:
        found = {"here": str(entry.place), "current": self.history.who(entry.current)}
        for (name, kind), value in zip(TRACEPOINTS[entry.event].fields, entry.args, strict=False):
            found[name] = self._field(entry, kind, value)
        return found

    def _field(self, entry: Entry, kind: str, value: int) -> str:
        match kind:
            case "pid":
                return self.history.who(value)
            case "str":
                names = entry.reader.names
                return names[value] if 0 <= value < len(names) else "?"
            case "state":
                return STATE_LETTERS.get(value, "?")
            case "vec":
                return SOFTIRQ_NAMES[value]
            case _:
                return str(value)

    def _quote(self, entry: Entry) -> str:
        fields = self._fields(entry)
        names = [name for name, _kind in TRACEPOINTS[entry.event].fields]
        values = ", ".join(f"{name} {fields[name]}" for name in names)
        return f"{entry.name}: {values}" if values else entry.name

    # -- What a record leaves to be looked up ------------------------------------------------------

    def _waking(self, entry: Entry) -> dict[str, str]:
        history, current, flags = self.history, entry.current, entry.record[2]
        if flags & (F_HARDIRQ | F_SOFTIRQ) or not current:
            context = "the softirq of" if flags & F_SOFTIRQ else "an interrupt on"
            return {"waker": f"{context} CPU {entry.place}", "beside": ""}
        beside = ""
        if entry.args[2] == entry.place:
            pid = history.who(entry.args[0])
            beside = f" while it sat itself on CPU {entry.place}, where {pid} had run last"
        return {"waker": history.who(current), "beside": beside}

    def _migrate(self, entry: Entry) -> dict[str, str]:
        _pid, _prio, source, target, why = entry.args
        return {"move": phrases.migrate_phrase(why).format(orig=source, dest=target)}

    def _select(self, entry: Entry) -> dict[str, str]:
        _pid, prev, target, cpu, rule = entry.args
        return {"place": phrases.place_phrase(rule).format(cpu=cpu, prev=prev, target=target)}

    def _affine(self, entry: Entry) -> dict[str, str]:
        _pid, this, prev, _target, rule = entry.args
        return {"affine": phrases.affine_phrase(rule).format(this=f"{this:,}", prev=f"{prev:,}")}

    def _weighed_groups(self, entry: Entry) -> dict[str, str]:
        _dst, _level, types, kind, imbalance = entry.args
        return {
            "busiest": phrases.group_phrase(types >> 4),
            "local": phrases.group_phrase(types & 15),
            "amount": phrases.migration_phrase(kind).format(imbalance=f"{imbalance:,}"),
        }

    def _kicked(self, entry: Entry) -> dict[str, str]:
        _ilb, nr_running, why, _flags = entry.args[:4]
        return {"saw": phrases.kick_phrase(why).format(nr_running=nr_running)}

    def _chose(self, entry: Entry) -> dict[str, str]:
        _work, pid, cpu, why = entry.args[:4]
        return {"chose": phrases.completion_phrase(why).format(pid=self.history.who(pid), cpu=cpu)}

    def _asked(self, entry: Entry) -> dict[str, str]:
        _cpu, signal, value, _limit, saturated = entry.args
        row = list(SIGNALS.values())[signal]
        timed = row.unit == "time" or row.name == "preempt"
        return {
            "signal": row.name,
            "value": duration_ns(value) if timed else f"{value:,}",
            "answer": "it is" if saturated else "it is not",
        }

    def _execute(self, entry: Entry) -> dict[str, str]:
        queued = self.history.at(entry.cause)
        if queued is None:
            return {"delay": ""}
        return {"delay": f", {duration_ns(entry.time_ns - queued.time_ns)} after it was queued"}

    def _queued(self, entry: Entry) -> dict[str, str]:
        cpu = entry.args[4]
        if cpu < 0:
            return {"bound": "unbound, so that any worker of its pool may take it"}
        return {"bound": f"bound, so that only CPU {cpu}'s own worker may take it"}

    def _passed(self, entry: Entry) -> str:
        dst, src, _idle, result, failed = entry.args
        return phrases.balance_phrase(result).format(
            dst=dst, src=src, failed=failed, by=self._made_by(entry), counted=self._counted(entry)
        )

    # A kick names who was kicked; a pass without one was the CPU's own.
    def _made_by(self, entry: Entry) -> str:
        kick = next((one for one in self.chain(entry.cause) if one.event == BOX_NOHZ_KICK), None)
        if kick is not None:
            ilb = kick.args[0]
            return "" if ilb == entry.args[0] else f", made for it by CPU {ilb},"
        idle = IDLE_TYPES[entry.args[2]] if 0 <= entry.args[2] < len(IDLE_TYPES) else "?"
        return {"idle": " while idle", "newidle": " on going idle", "busy": ""}.get(idle, "")

    # A kick leaves the counter at cache_nice_tries + 1, so that it says what the limit was.
    def _counted(self, entry: Entry) -> str:
        failed = entry.args[4]
        if "active_balance_keeps_count" in self.rules:
            return f": it has failed {failed} times in a row"
        limit = failed - 1 + 2
        times = self._failures(entry, limit)
        if not times:
            return ""  # it did not need to fail so often
        listed = ", ".join(moment(time_ns).removesuffix(" s") for time_ns in times)
        return (
            f", as at {listed} s: its failures count {limit + 1} now, more than "
            f"cache_nice_tries + 2 = {limit}"
        )

    # The passes that a counter counts, oldest first, given how far it had come before this one.
    def _failures(self, entry: Entry, count: int) -> list[int]:
        times: list[int] = []
        for before in self._passes_before(entry, entry.args[0]):
            _dst, _src, idle, result, failed = before.args
            if idle == CPU_NEWLY_IDLE and result == LB_FAILED:
                continue  # not counted
            if result != LB_FAILED or failed != count:
                break
            times.append(before.time_ns)
            count -= 1
            if not count:
                break
        return times[::-1]

    def _passes_before(self, entry: Entry, dst: int) -> Iterator[Entry]:
        before = self._balance(entry.reader, dst, entry.time_ns - 1)
        for _pass in range(CAUSES_MAX):
            if before is None:
                return
            yield before
            before = self._balance(entry.reader, dst, before.time_ns - 1)

    def _balance(self, reader: RingReader, dst: int, upto_ns: int) -> Entry | None:
        return self.history.last((BOX_LOAD_BALANCE,), {COLUMN_A: dst}, upto_ns, [reader])

    # -- Chains ----------------------------------------------------------------------------------

    def chain(self, cause: int) -> Iterator[Entry]:
        """Yield the records that led to one, newest first, as far as they still exist."""
        for _link in range(CAUSES_MAX):
            entry = self.history.at(cause)
            if entry is None:
                return
            yield entry
            cause = entry.cause

    def steps(self, cause: int) -> Iterator[Step]:
        """Yield a chain in words, with what was weighed and who waited when a pass pushed."""
        pushed: Entry | None = None
        for entry in self.chain(cause):
            text = self.say(entry)
            if text:
                yield replace(self.step(entry, text), link=LINKS.get(entry.name, "because"))
            yield from self.weighed(entry)
            if entry.event == BOX_LOAD_BALANCE and entry.args[3] == LB_ACTIVE:
                pushed = entry
        if pushed is not None:
            yield from self.waiting(pushed.args[1], pushed.time_ns)

    def weighed(self, entry: Entry) -> Iterator[Step]:
        """Yield what the emulator's other records say that a decision weighed."""
        if entry.event not in WEIGHED:
            return
        causes = {one.position for one in self.chain(entry.cause) if one.reader is entry.reader}
        position, found = entry.position - 1, []
        while position >= max(entry.reader.first, entry.position - WEIGHED_MAX):
            one = Entry(entry.reader, position, entry.reader.record(position))
            if one.time_ns != entry.time_ns or one.event == entry.event:
                break
            if one.args[0] == entry.args[0] and one.position not in causes:
                found.append(one)
            position -= 1
        for one in found:
            if one.name.startswith("box_") and one.event != BOX_CHECK_PREEMPT:
                yield self.step(one)

    def waiting(self, cpu: int, time_ns: int) -> Iterator[Step]:
        """Yield who ran and who waited on a CPU, and what led to the waiting of the first."""
        history = self.history
        queue = history.queue_at(cpu, time_ns)
        waiters = sorted(queue.waiting.items(), key=lambda item: (item[1], item[0]))
        if not queue.current:
            return
        if not waiters:
            yield self._nobody(cpu, time_ns)
            return
        for pid, since_ns in waiters[:WAITERS_MAX]:
            fate = "it is bound to that CPU" if history.is_bound(pid) else "it was not moved"
            waited = duration_ns(time_ns - since_ns)
            text = (
                f"{history.who(pid)} had waited {waited} on CPU {cpu} behind "
                f"{history.who(queue.current)}, and {fate}"
            )
            yield Step(since_ns, f"CPU {cpu}", text, "there")
        yield from self.unserved(waiters[0][0], cpu, waiters[0][1], time_ns)

    # With delayed dequeue a task that has gone to sleep may stay queued, and be counted.
    def _nobody(self, cpu: int, time_ns: int) -> Step:
        text = f"nobody waited for CPU {cpu}"
        left = self.history.last((SCHED_SWITCH,), {}, time_ns, [self.history.readers[cpu]])
        if left is not None and left.args[0] and "eevdf" in self.rules:
            ago = duration_ns(time_ns - left.time_ns)
            text += (
                f": {self.history.who(left.args[0])} had gone to sleep {ago} before, and may still"
            )
            text += " be counted where its dequeue is delayed"
        return Step(time_ns, f"CPU {cpu}", text, "but")

    def unserved(self, pid: int, cpu: int, since_ns: int, upto_ns: int) -> Iterator[Step]:
        """Yield why a task that became runnable did not get the CPU: the test, and who woke it."""
        readers = [self.history.readers[cpu]]
        test = self.history.last((BOX_CHECK_PREEMPT,), {PID_COLUMN: pid}, upto_ns, readers)
        if test is not None and test.time_ns >= since_ns:
            yield self.step(test)
        woken = self.history.last((SCHED_WAKEUP,), {PID_COLUMN: pid}, upto_ns, readers)
        if woken is not None and woken.time_ns >= since_ns:
            steps = self.steps(woken.cause)
            first = next(steps, None)
            if first is not None:
                yield replace(first, link="it had been woken because")
                yield from steps

    def switch_in(self, pid: int, upto_ns: int) -> Entry | None:
        """Return when a task last got a CPU."""
        return self.history.last((SCHED_SWITCH,), {COLUMN_D: pid}, upto_ns)

    def waking(self, pid: int, upto_ns: int) -> Entry | None:
        """Return when a task was last woken."""
        return self.history.last((SCHED_WAKING,), {PID_COLUMN: pid}, upto_ns)
