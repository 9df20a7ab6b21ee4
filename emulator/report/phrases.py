"""What every decision is called in a sentence: one phrase per entry of the kernel's tables.

Theory of operation
-------------------
:mod:`emulator.tracepoints` numbers the rules, results and reasons that records carry; here each has
a phrase, by its name.  An entry without one is spoken of in a general way, so that a new rule can
be traced before anybody has found words for it; a test says which ones have none.

Phrases are ``str.format`` templates; who fills them is :mod:`emulator.report.story`.
"""

from collections.abc import Mapping

from emulator.tracepoints import (
    COMPLETION_WHYS,
    GROUP_TYPES,
    LB_RESULTS,
    MIGRATE_CAUSES,
    MIGRATION_TYPES,
    NOHZ_WHYS,
    PLACE_RULES,
    PREEMPT_WHYS,
    WA_RULES,
)

#: Headline and first step of a move, by cause; ``pid`` who, ``orig``, ``dest`` CPUs.
MIGRATE_PHRASES = {
    "wakeup": "placed on another CPU when it was woken",
    "active_balance": "pushed away by active balance while it ran",
    "periodic": "pulled by CPU {dest}'s own balance pass, while it waited",
    "newidle": "pulled by CPU {dest}, which was going idle, while it waited",
    "nohz": "pulled for CPU {dest}, which was idle, by the idle load balancer, while it waited",
    "hotplug": "its CPU went away",
    "affinity": "its allowed CPUs changed",
    "fork": "placed when it was created",
    "exec": "placed anew when it called exec()",
}

#: Why a wakeup chose its CPU, by rule; ``cpu`` chosen, ``prev`` the last one, ``target``.
PLACE_PHRASES = {
    "pinned": "CPU {cpu} is the only one that it may use",
    "target_idle": "CPU {cpu}, where the search began, was idle (rule target_idle)",
    "prev_idle": "CPU {cpu}, where it ran last, was idle (rule prev_idle)",
    "per_cpu_kthread": "a per-CPU kthread woke it on CPU {cpu}, where it ran last, and will soon "
    "be gone: it stays there (rule per_cpu_kthread)",
    "recent_used_cpu": "CPU {cpu}, which it used the time before, was idle and shares a cache, and "
    "CPU {target} was not idle (rule recent_used_cpu)",
    "prev": "CPU {cpu} is where it ran last, and real-time tasks are not pushed (rule prev)",
    "idle_core": "CPU {cpu} belongs to a core that was wholly idle, and CPU {target} was not idle "
    "(rule idle_core)",
    "idle_cpu": "CPU {cpu} was the first idle one found in the LLC, and CPU {target} was not idle "
    "(rule idle_cpu)",
    "idle_smt": "CPU {cpu}, a sibling of CPU {target}'s core, was idle (rule idle_smt)",
    "target": "no CPU that shares a cache was found idle, so it stays with CPU {cpu} (rule target)",
    "idlest": "CPU {cpu} was the idlest of the domain (rule idlest)",
    "fallback": "the CPU wanted may not be used, and CPU {cpu} was left (rule fallback)",
    "exec": "CPU {cpu} was the idlest of the domain, and an exec() leaves no cache behind (rule exec)",
    "still_on_cpu": "it was still leaving CPU {cpu}, where nothing else ran: it stays (rule "
    "still_on_cpu)",
}

#: The answer of a preemption test, by reason; ``pid``, ``curr`` tasks, ``vdiff``, ``gran`` times.
PREEMPT_PHRASES = {
    "granularity": "{pid} did not preempt {curr}: it was {vdiff} behind in vruntime, less than the "
    "wakeup granularity of {gran}",
    "wakeup": "{pid} preempted {curr} at its wakeup: it was {vdiff} behind in vruntime, more than "
    "the wakeup granularity of {gran}",
    "slice": "the tick took the CPU from {curr}: it had run {vdiff}, longer than its slice of "
    "{gran}",
    "vruntime": "the tick took the CPU from {curr}: {pid} was {vdiff} behind in vruntime, more than "
    "one slice of {gran}",
    "class": "{pid} preempted {curr}: it is of a higher class",
    "idle_policy": "{pid} preempted {curr}, which runs under SCHED_IDLE",
    "kthread_nvcsw": "{pid} preempted {curr}: a per-CPU kthread that sleeps more readily (F13)",
    "kthread_ahead": "{pid} preempted {curr}: a per-CPU kthread, {vdiff} behind in vruntime, and any "
    "lead is enough for one (F14)",
    "kthread_buddy": "{pid} did not preempt {curr}: it was {vdiff} behind in vruntime, less than "
    "{gran}; as a per-CPU kthread it is the next buddy (F17)",
    "delayed": "{pid} did not preempt {curr}: it was {vdiff} behind in vruntime, less than {gran}; as "
    "a per-CPU kthread it is not even queued until the next schedule() (F19)",
    "deadline": "{curr} gave way: its virtual deadline had passed by {vdiff}",
    "ineligible": "{curr} gave way: unprotected, and {gran} of lag from its share (ineligible)",
    "picked": "{pid} preempted {curr} at its wakeup: it was eligible, and its deadline was {vdiff} "
    "earlier",
    "short_slice": "{pid} preempted {curr}: its slice is shorter, which took {curr}'s protection, and "
    "its deadline was {vdiff} earlier",
    "protected": "{pid} did not preempt {curr}, which is protected until its slice is used up "
    "(RUN_TO_PARITY); deadline {vdiff} earlier, lag {gran}",
    "later_deadline": "{pid} did not preempt {curr}: another deadline comes first (lag {gran})",
    "rt_prio": "{pid} preempted {curr}: its real-time priority is higher",
    "not_eligible": "{pid} did not preempt {curr}: it has had more than its share (lag {gran})",
}

#: How wake_affine() chose, by rule; ``this`` and ``prev`` are the loads that were compared.
AFFINE_PHRASES = {
    "this_idle": "the waker's was idle and shares the cache",
    "both_idle": "both were idle, so the last one",
    "sync": "the waker was alone on its CPU and said that it would sleep",
    "prev_idle": "the last one was idle",
    "weight": "with the task the waker's would carry {this}, the last one {prev} (scaled loads)",
    "undecided": "with the task the waker's would carry {this}, not less than {prev} (scaled loads), so "
    "the last one",
}

#: How a balance pass ended, by result; ``dst``, ``src`` CPUs, ``times`` it failed in a row.
LB_PHRASES = {
    "balanced": "CPU {dst}'s balance pass{by} found nothing to do",
    "failed": "CPU {dst}'s balance pass{by} found CPU {src} the busiest, but nothing there that "
    "could be moved: its failures count {failed}",
    "moved": "CPU {dst}'s balance pass{by} found CPU {src} the busiest and took what waited there",
    "active": "CPU {dst}'s balance pass{by} found CPU {src} the busiest but nothing there that could "
    "be moved{counted}; so it had CPU {src}'s stopper push the running task",
    "pinned": "CPU {dst}'s balance pass{by} found only tasks on CPU {src} that may not leave it",
}

#: Why a tick kicked an idle CPU, by reason.
KICK_PHRASES = {
    "blocked_load": "found idle CPUs with load that nobody has aged for 32 ms",
    "nr_running": "saw {nr_running} tasks on its queue",
    "reduced_capacity": "had a task on a CPU whose capacity interrupts reduce",
    "llc_busy": "knew of another busy CPU in its LLC",
}

#: What a pass wanted to move, by migration type; ``imbalance`` is how much of it.
MIGRATION_PHRASES = {
    "load": "{imbalance} of load",
    "util": "{imbalance} of utilisation",
    "task": "{imbalance} task(s)",
    "misfit": "a task that does not fit its CPU",
}

#: What a record of a cause chain says, by event; empty: nothing that its neighbours do not say.
#: Fields are those of the tracepoint, tasks and texts by name; ``here`` is the record's CPU or
#: node, ``current`` the task that it interrupted or that did it, and some records have more.
EVENT_PHRASES = {
    "sched_waking": "{waker} woke {pid}{beside}",
    "sched_wakeup": "",
    "sched_wakeup_new": "{pid} was created",
    "sched_switch": "CPU {here} switched from {prev} to {next}",
    "sched_migrate_task": "{pid} was moved from CPU {orig_cpu} to CPU {dest_cpu}: {move}",
    "box_select_task_rq": "{place}",
    "box_check_preempt": "{answer}",
    "box_load_balance": "{passed}",
    "box_wake_affine": "between its waker's CPU and its last one wake_affine() chose CPU {target}: "
    "{affine}",
    "box_find_idlest": "from CPU {from_cpu} the way down the domains led to CPU {cpu} (compared: "
    "{local} here, {idlest} there)",
    "box_lb_imbalance": "it weighed its own group ({local}) against the busiest ({busiest}), and wanted "
    "{amount} moved",
    "box_nohz_kick": "CPU {here}'s tick {saw}, and kicked CPU {ilb}, the first idle one, to balance for "
    "all idle CPUs",
    "workqueue_queue_work": "the work {function} was queued on CPU {here}: its workqueue is {bound}",
    "workqueue_activate_work": "",
    "workqueue_execute_start": "{current} ran the work {function}{delay}",
    "workqueue_execute_end": "{current} ended a work",
    "block_rq_complete": "an IO ended on CPU {here} ({rwbs} {sector} + {nr_sector})",
    "block_rq_issue": "{current} had submitted it on CPU {here}, where its completion then goes too",
    "block_rq_insert": "",
    "hrtimer_expire_entry": "the disk's timer for it, {function}, went off on CPU {here}",
    "local_timer_entry": "the tick of CPU {here}",
    "irq_handler_entry": "the interrupt of {name} came to CPU {here}",
    "call_function_single_entry": "another CPU sent the completion to CPU {here} by IPI",
    "reschedule_entry": "",
    "softirq_raise": "",
    "softirq_entry": "",
    "box_io_submit": "{pid} called io_submit() with {nr} requests",
    "box_aio_complete": "an AIO of {pid} was completed",
    "box_completion": "the completion policy {chose}",
    "box_saturation": "it asked {signal} whether CPU {cpu} is saturated, which read {value}: {answer}",
    "box_command": "the command `{text}` took effect",
    "cpuhp_enter": "the hotplug of CPU {cpu} came to {fun}",
    "printk": "the kernel said: {text}",
}


#: What a completion policy chose, by reason; ``cpu`` chosen, ``pid`` whose IO it is.
COMPLETION_PHRASES = {
    "rule": "gave the work to CPU {cpu}, as it always does",
    "dead": "kept the work on CPU {cpu}, since {pid}'s own has gone",
    "no_cache": "kept the work on CPU {cpu}, which shares no cache",
    "not_saturated": "left the work on CPU {cpu}, which was not saturated",
    "none_idle": "left the work on CPU {cpu}, which was saturated, but none of its cache was idle",
    "idle": "gave the work to CPU {cpu}, the first idle one of the cache: its own was saturated",
    "inline": "let the IO be completed on CPU {cpu}, where it ended, without a work",
    "caller": "left the IO to {pid} itself to be completed, without a work",
    "rescued": "took the work, which waited, to CPU {cpu}, the first idle one of the cache",
}


def completion_phrase(why: int) -> str:
    """Return the phrase for the choice of a completion policy."""
    name = _name(COMPLETION_WHYS, why)
    return COMPLETION_PHRASES.get(name, f"chose CPU {{cpu}} ({name})")


def migrate_phrase(why: int) -> str:
    """Return the phrase for a cause of migration."""
    name = MIGRATE_CAUSES.get(why, str(why))
    return MIGRATE_PHRASES.get(name, f"moved ({name})")


def place_phrase(rule: int) -> str:
    """Return the phrase for a rule of wakeup placement."""
    name = _name(PLACE_RULES, rule)
    return PLACE_PHRASES.get(name, f"CPU {{cpu}} was chosen by the rule {name}")


def affine_phrase(rule: int) -> str:
    """Return the phrase for a rule of wake_affine()."""
    name = _name(WA_RULES, rule)
    return AFFINE_PHRASES.get(name, f"rule {name}, {{this}} against {{prev}}")


def preempt_phrase(why: int) -> str:
    """Return the phrase for the answer of a preemption test."""
    name = _name(PREEMPT_WHYS, why)
    general = f"{{pid}} against {{curr}}: {name} (behind by {{vdiff}}, compared with {{gran}})"
    return PREEMPT_PHRASES.get(name, general)


def kick_phrase(why: int) -> str:
    """Return the phrase for a reason to kick an idle CPU."""
    name = _name(NOHZ_WHYS, why)
    return KICK_PHRASES.get(name, f"saw {name}")


def migration_phrase(kind: int) -> str:
    """Return the phrase for what a balance pass wanted to move."""
    name = _name(MIGRATION_TYPES, kind)
    return MIGRATION_PHRASES.get(name, f"{{imbalance}} of {name}")


def group_phrase(kind: int) -> str:
    """Return what a group of CPUs was, in a pass."""
    return _name(GROUP_TYPES, kind).replace("_", " ")


def balance_phrase(result: int) -> str:
    """Return the phrase for the result of a balance pass."""
    name = _name(LB_RESULTS, result)
    return LB_PHRASES.get(name, f"CPU {{dst}}'s balance pass{{by}} ended with {name} (CPU {{src}})")


def unspoken() -> dict[str, list[str]]:
    """Return, by table, the entries that have no phrase yet."""
    tables: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
        "PLACE_RULES": (PLACE_RULES, PLACE_PHRASES),
        "PREEMPT_WHYS": (PREEMPT_WHYS, PREEMPT_PHRASES),
        "WA_RULES": (WA_RULES, AFFINE_PHRASES),
        "MIGRATE_CAUSES": (tuple(MIGRATE_CAUSES.values()), MIGRATE_PHRASES),
        "LB_RESULTS": (LB_RESULTS, LB_PHRASES),
        "NOHZ_WHYS": (NOHZ_WHYS, KICK_PHRASES),
        "COMPLETION_WHYS": (COMPLETION_WHYS, COMPLETION_PHRASES),
        "MIGRATION_TYPES": (MIGRATION_TYPES, MIGRATION_PHRASES),
    }
    missing = {
        table: [name for name in names if name not in phrases]
        for table, (names, phrases) in tables.items()
    }
    return {table: names for table, names in missing.items() if names}


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
