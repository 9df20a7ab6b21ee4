"""Every event that a box can record, declared once: name, fields, kernel print format.

Ring records, ftrace text, Perfetto, Parquet and the live view all derive from this table; nothing
else is "logged" from the kernel rooms.  Formats are v5.4's (``include/trace/events``).

A record is one :data:`RECORD`: time in ns, event id, context flags, spare, pid of the current
task (0: the idle task), cause, and five arguments.  ``cause`` is the *global position* of the
record that led to this one, or 0: ring number << 40 | position in that ring + 1, where the ring
number is the CPU's, or that of the device or coordinator (``nr_cpus`` and up).

Field kinds: ``int`` prints as is; ``pid`` is a task whose comm is known to the ring; ``str`` is an
interned name; ``dev`` and ``bdi`` are major << 20 | minor; ``state`` a task state; ``vec`` a softirq number;
``ptr`` an object that the kernel would print as a hashed pointer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

RECORD = struct.Struct("<QHBBIQqqqqq")
RECORD_SIZE = RECORD.size
assert RECORD_SIZE == 64

# Context flags of a record: the kernel's irqs-off, need-resched, hardirq, softirq columns.
F_IRQS_OFF = 1
F_NEED_RESCHED = 2
F_HARDIRQ = 4
F_SOFTIRQ = 8

# Task states as sched_switch prints them.
TASK_RUNNING = 0
TASK_INTERRUPTIBLE = 1
TASK_UNINTERRUPTIBLE = 2
TASK_DEAD = 0x10
TASK_IDLE = 0x80
TASK_PREEMPTED = 0x100
STATE_LETTERS = {
    TASK_RUNNING: "R",
    TASK_INTERRUPTIBLE: "S",
    TASK_UNINTERRUPTIBLE: "D",
    TASK_DEAD: "X",
    TASK_IDLE: "I",
    TASK_PREEMPTED: "R+",
}

SOFTIRQ_NAMES = (
    "HI",
    "TIMER",
    "NET_TX",
    "NET_RX",
    "BLOCK",
    "IRQ_POLL",
    "TASKLET",
    "SCHED",
    "HRTIMER",
    "RCU",
)

# What a tick interrupted, as account_process_tick() and account_system_time() tell it apart; the
# last argument of the softirq_raise of TIMER that every tick makes.
TICK_NONE = 0  # not a tick's
TICK_IDLE = 1
TICK_USER = 2
TICK_SYSTEM = 3
TICK_SOFTIRQ = 4
TICK_CONTEXTS = ("none", "idle", "user", "system", "softirq")

# Why a task changed its CPU; the last argument of sched_migrate_task.
MIGRATE_WAKEUP = 1
MIGRATE_ACTIVE = 2
MIGRATE_PERIODIC = 3
MIGRATE_NEWIDLE = 4
MIGRATE_NOHZ = 5
MIGRATE_HOTPLUG = 6
MIGRATE_AFFINITY = 7
MIGRATE_FORK = 8
MIGRATE_EXEC = 9
MIGRATE_CAUSES = {
    MIGRATE_WAKEUP: "wakeup",
    MIGRATE_ACTIVE: "active_balance",
    MIGRATE_PERIODIC: "periodic",
    MIGRATE_NEWIDLE: "newidle",
    MIGRATE_NOHZ: "nohz",
    MIGRATE_HOTPLUG: "hotplug",
    MIGRATE_AFFINITY: "affinity",
    MIGRATE_FORK: "fork",
    MIGRATE_EXEC: "exec",
}

# Which rule chose the CPU; the argument ``rule`` of box_select_task_rq.  ``target`` is where the idle
# search began: the answer of wake_affine(), else prev_cpu.
#   pinned           the task may run on one CPU only
#   target_idle      the target itself is idle, or runs SCHED_IDLE tasks only
#   prev_idle        the previous CPU is, and shares the target's cache
#   per_cpu_kthread  the waker is a per-CPU kthread alone on the previous CPU: it will make room
#   recent_used_cpu  the CPU used before the previous one is idle and shares the cache
#   idle_core        every SMT sibling of it is idle
#   idle_cpu         the first idle CPU of the target's cache within the scan's budget
#   idle_smt         an idle SMT sibling of the target (from 5.12 on: of the previous CPU)
#   target           nothing idle was found: it queues on the target
#   idlest           a new task went down the domains: see box_find_idlest before it
#   fallback         the choice was not allowed (mask, offline): select_fallback_rq()
#   exec             an exec went down the domains, as a new task does
#   prev             a real-time task stays where it ran last
#   still_on_cpu     the task was still leaving its CPU, nothing else runs there: it stays (5.8)
PLACE_PINNED = 0
PLACE_TARGET_IDLE = 1
PLACE_PREV_IDLE = 2
PLACE_KTHREAD_STACK = 3
PLACE_RECENT = 4
PLACE_IDLE_CORE = 5
PLACE_IDLE_CPU = 6
PLACE_IDLE_SMT = 7
PLACE_TARGET = 8
PLACE_IDLEST = 9
PLACE_FALLBACK = 10
PLACE_EXEC = 11
PLACE_ON_CPU = 12
PLACE_PREV = 13
PLACE_RULES = (
    "pinned",
    "target_idle",
    "prev_idle",
    "per_cpu_kthread",
    "recent_used_cpu",
    "idle_core",
    "idle_cpu",
    "idle_smt",
    "target",
    "idlest",
    "fallback",
    "exec",
    "still_on_cpu",
    "prev",
)

# How wake_affine() chose between the waker's CPU and the previous one; the argument ``rule`` of
# box_wake_affine.
#   this_idle  the waker's CPU is idle (an interrupt wakes) and shares the cache: it
#   both_idle  so is the previous one: that
#   sync       the waker is alone on its CPU and will sleep: the waker's
#   prev_idle  the previous CPU is idle, wherever it is (5.11)
#   weight     with the task moved the waker's CPU would carry less load: ``this`` < ``prev``
#   undecided  the previous CPU
WA_THIS_IDLE = 0
WA_BOTH_IDLE = 1
WA_SYNC = 2
WA_PREV_IDLE = 3
WA_WEIGHT = 4
WA_UNDECIDED = 5
WA_RULES = ("this_idle", "both_idle", "sync", "prev_idle", "weight", "undecided")
WA_THIS = frozenset((WA_THIS_IDLE, WA_SYNC, WA_WEIGHT))

# How a load_balance() pass ended; the argument ``result`` of box_load_balance.
LB_BALANCED = 0
LB_FAILED = 1
LB_MOVED = 2
LB_ACTIVE = 3
LB_PINNED = 4
LB_RESULTS = ("balanced", "failed", "moved", "active", "pinned")

# What kind of group a balance pass saw; the arguments ``busiest`` and ``local`` of
# box_lb_imbalance.  v5.4 knows other, misfit, imbalanced, overloaded; v5.5 all but other.  The
# kernels' own numbers differ, their order is this one.
GROUP_OTHER = 0
GROUP_HAS_SPARE = 1
GROUP_FULLY_BUSY = 2
GROUP_MISFIT_TASK = 3
GROUP_SMT_BALANCE = 4
GROUP_ASYM_PACKING = 5
GROUP_IMBALANCED = 6
GROUP_OVERLOADED = 7
GROUP_TYPES = (
    "other",
    "has_spare",
    "fully_busy",
    "misfit_task",
    "smt_balance",
    "asym_packing",
    "imbalanced",
    "overloaded",
)
# What such a pass counts; by MIGRATION_* of types.py, the argument ``migration``.
MIGRATION_TYPES = ("load", "util", "task", "misfit")

# Why a busy CPU kicked an idle one; the argument ``why`` of box_nohz_kick.
NOHZ_WHY_BLOCKED = 0
NOHZ_WHY_NR_RUNNING = 1
NOHZ_WHY_CAPACITY = 2
NOHZ_WHY_LLC_BUSY = 3
NOHZ_WHYS = ("blocked_load", "nr_running", "reduced_capacity", "llc_busy")
IDLE_TYPES = ("idle", "busy", "newidle")

# What a preemption test answered; the argument ``why`` of box_check_preempt.
PREEMPT_NO_GRANULARITY = 0  # the only answer, of those recorded, that changes nothing
PREEMPT_WAKEUP = 1
PREEMPT_TICK_SLICE = 2
PREEMPT_TICK_VRUNTIME = 3
PREEMPT_CLASS = 4
PREEMPT_IDLE_POLICY = 5
PREEMPT_KTHREAD_NVCSW = 6
PREEMPT_KTHREAD_AHEAD = 7
PREEMPT_KTHREAD_BUDDY = 8
PREEMPT_DELAYED = 9
# The same under EEVDF; V is the runqueue's virtual time, v a task's vruntime, p the task tested or,
# where charging the running task made it give way, the one that would run next.
PREEMPT_DEADLINE = 10  # curr's deadline passed: vdiff = v - deadline of curr, gran = V - v of curr
PREEMPT_INELIGIBLE = 11  # curr, unprotected, had its share: vdiff as below, gran = V - v of curr
PREEMPT_PICKED = 12  # the pick takes p: vdiff = deadline of curr - of p, gran = V - v of p
PREEMPT_SHORT_SLICE = 13  # p's shorter slice took curr's protection away: as above
PREEMPT_PROTECTED = 14  # not preempted: RUN_TO_PARITY protects curr: as above
PREEMPT_LATER_DEADLINE = 15  # not preempted: somebody's deadline is earlier: as above
PREEMPT_NOT_ELIGIBLE = 16  # not preempted: p has had its share: as above
PREEMPT_RT_PRIO = 17  # both are real-time tasks, and p has the higher priority
PREEMPT_WHYS = (
    *("granularity", "wakeup", "slice", "vruntime", "class", "idle_policy"),
    *("kthread_nvcsw", "kthread_ahead", "kthread_buddy", "delayed"),
    *("deadline", "ineligible", "picked", "short_slice"),
    *("protected", "later_deadline", "not_eligible", "rt_prio"),
)
#: Answers that leave the running task where it is.
PREEMPT_REFUSALS = frozenset(
    (
        PREEMPT_NO_GRANULARITY,
        PREEMPT_KTHREAD_BUDDY,
        PREEMPT_DELAYED,
        PREEMPT_PROTECTED,
        PREEMPT_LATER_DEADLINE,
        PREEMPT_NOT_ELIGIBLE,
    )
)


# Why a completion policy chose the CPU that it chose: box_completion's ``why``.
COMPLETION_RULE = 0  # as it always does
COMPLETION_DEAD = 1  # the submitter's CPU has died
COMPLETION_NO_CACHE = 2  # this CPU shares no cache with another
COMPLETION_NOT_SATURATED = 3
COMPLETION_NONE_IDLE = 4  # saturated, but so is everybody who shares the cache
COMPLETION_IDLE = 5  # saturated: the first idle CPU that shares the cache
COMPLETION_INLINE = 6  # completed where the bio ended
COMPLETION_CALLER = 7  # left to the submitter
COMPLETION_RESCUED = 8  # saturated, and the work waited: the first idle CPU that shares the cache
COMPLETION_WHYS = (
    *("rule", "dead", "no_cache", "not_saturated", "none_idle", "idle", "inline", "caller"),
    "rescued",
)


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One event: its id in a record, its name, its fields in argument order, its print format.

    The format is a ``str.format`` template over the field names; a ``pid`` field ``x`` also
    offers ``x_comm``, a ``str`` field prints its name.
    """

    id: int
    name: str
    fields: tuple[tuple[str, str], ...]
    print_format: str


TRACEPOINTS: dict[int, Tracepoint] = {}


def _declare(name: str, fields: str, print_format: str) -> int:
    # "pid:pid prio:int" -> (("pid", "pid"), ("prio", "int")); ids count up from 1.
    number = len(TRACEPOINTS) + 1
    pairs = tuple((field.partition(":")[0], field.partition(":")[2]) for field in fields.split())
    assert len(pairs) <= 5, name
    TRACEPOINTS[number] = Tracepoint(number, name, pairs, print_format)
    return number


_TASK = "comm={pid_comm} pid={pid} prio={prio}"

SCHED_WAKING = _declare("sched_waking", "pid:pid prio:int cpu:int", _TASK + " target_cpu={cpu:03d}")
SCHED_WAKEUP = _declare("sched_wakeup", "pid:pid prio:int cpu:int", _TASK + " target_cpu={cpu:03d}")
SCHED_WAKEUP_NEW = _declare(
    "sched_wakeup_new", "pid:pid prio:int cpu:int", _TASK + " target_cpu={cpu:03d}"
)
SCHED_SWITCH = _declare(
    "sched_switch",
    "prev:pid prev_prio:int prev_state:state next:pid next_prio:int",
    "prev_comm={prev_comm} prev_pid={prev} prev_prio={prev_prio} prev_state={prev_state} ==> "
    "next_comm={next_comm} next_pid={next} next_prio={next_prio}",
)
SCHED_MIGRATE_TASK = _declare(
    "sched_migrate_task",
    "pid:pid prio:int orig_cpu:int dest_cpu:int why:int",
    _TASK + " orig_cpu={orig_cpu} dest_cpu={dest_cpu}",
)
SCHED_STAT_RUNTIME = _declare(
    "sched_stat_runtime",
    "pid:pid runtime:int vruntime:int",
    "comm={pid_comm} pid={pid} runtime={runtime} [ns] vruntime={vruntime} [ns]",
)
SCHED_PROCESS_EXIT = _declare("sched_process_exit", "pid:pid prio:int", _TASK)
SCHED_WAKE_IDLE_WITHOUT_IPI = _declare("sched_wake_idle_without_ipi", "cpu:int", "cpu={cpu}")
WORKQUEUE_QUEUE_WORK = _declare(
    "workqueue_queue_work",
    "work:ptr function:str workqueue:str req_cpu:int cpu:int",
    "work struct={work} function={function} workqueue={workqueue} req_cpu={req_cpu} cpu={cpu}",
)
WORKQUEUE_ACTIVATE_WORK = _declare("workqueue_activate_work", "work:ptr", "work struct {work}")
WORKQUEUE_EXECUTE_START = _declare(
    "workqueue_execute_start", "work:ptr function:str", "work struct {work}: function {function}"
)
WORKQUEUE_EXECUTE_END = _declare("workqueue_execute_end", "work:ptr", "work struct {work}")
BLOCK_RQ_INSERT = _declare(
    "block_rq_insert",
    "dev:dev rwbs:str sector:int nr_sector:int bytes:int",
    "{dev} {rwbs} {bytes} () {sector} + {nr_sector} [{comm}]",
)
BLOCK_RQ_ISSUE = _declare(
    "block_rq_issue",
    "dev:dev rwbs:str sector:int nr_sector:int bytes:int",
    "{dev} {rwbs} {bytes} () {sector} + {nr_sector} [{comm}]",
)
BLOCK_RQ_COMPLETE = _declare(
    "block_rq_complete",
    "dev:dev rwbs:str sector:int nr_sector:int error:int",
    "{dev} {rwbs} () {sector} + {nr_sector} [{error}]",
)
HRTIMER_EXPIRE_ENTRY = _declare(
    "hrtimer_expire_entry",
    "hrtimer:ptr function:str now:int",
    "hrtimer={hrtimer} function={function} now={now}",
)
LOCAL_TIMER_ENTRY = _declare("local_timer_entry", "vector:int", "vector={vector}")
IRQ_HANDLER_ENTRY = _declare("irq_handler_entry", "irq:int name:str", "irq={irq} name={name}")
IRQ_HANDLER_EXIT = _declare("irq_handler_exit", "irq:int", "irq={irq} ret=handled")
RESCHEDULE_ENTRY = _declare("reschedule_entry", "vector:int", "vector={vector}")
CALL_FUNCTION_SINGLE_ENTRY = _declare("call_function_single_entry", "vector:int", "vector={vector}")
SOFTIRQ_RAISE = _declare("softirq_raise", "vec:vec tick:int", "vec={vec} [action={vec_action}]")
SOFTIRQ_ENTRY = _declare("softirq_entry", "vec:vec", "vec={vec} [action={vec_action}]")
SOFTIRQ_EXIT = _declare("softirq_exit", "vec:vec", "vec={vec} [action={vec_action}]")
CPU_IDLE = _declare("cpu_idle", "state:int cpu_id:int", "state={state} cpu_id={cpu_id}")
CPUHP_ENTER = _declare(
    "cpuhp_enter",
    "cpu:int target:int step:int fun:str",
    "cpu: {cpu:04d} target: {target:3d} step: {step:3d} ({fun})",
)
CPUHP_EXIT = _declare(
    "cpuhp_exit",
    "cpu:int state:int step:int ret:int",
    " cpu: {cpu:04d}  state: {state:3d} step: {step:3d} ret: {ret}",
)
# Events of the box itself: decisions with their inputs, commands, and what must never happen.
BOX_SELECT_TASK_RQ = _declare(
    "box_select_task_rq",
    "pid:pid prev_cpu:int target:int cpu:int rule:int",
    "comm={pid_comm} pid={pid} prev_cpu={prev_cpu} target={target} cpu={cpu} rule={rule}",
)
BOX_CHECK_PREEMPT = _declare(
    "box_check_preempt",
    "pid:pid curr:pid vdiff:int gran:int why:int",
    "comm={pid_comm} pid={pid} curr={curr} vdiff={vdiff} gran={gran} why={why}",
)
BOX_LOAD_BALANCE = _declare(
    "box_load_balance",
    "dst:int src:int idle:int result:int failed:int",
    "dst_cpu={dst} src_cpu={src} idle={idle} result={result} nr_balance_failed={failed}",
)
BOX_NOHZ_KICK = _declare(
    "box_nohz_kick",
    "ilb:int nr_running:int why:int flags:int",
    "ilb={ilb} nr_running={nr_running} why={why} flags={flags}",
)
BOX_IO_SUBMIT = _declare(
    "box_io_submit", "pid:pid nr:int ret:int", "comm={pid_comm} pid={pid} nr={nr} ret={ret}"
)
BOX_AIO_COMPLETE = _declare(
    "box_aio_complete",
    "pid:pid data:int res:int inline:int",
    "pid={pid} data={data} res={res} inline={inline}",
)
BOX_DOORBELL = _declare(
    "box_doorbell",
    "cpu:int tag:int sector:int rw:int done_ns:int",
    "cpu={cpu} tag={tag} sector={sector} rw={rw} done_ns={done_ns}",
)
BOX_COMMAND = _declare("box_command", "text:str", "{text}")
BOX_LOST = _declare("box_lost", "records:int", "records={records}")
PRINTK = _declare("printk", "text:str", "{text}")
BOX_WARN = _declare("box_warn", "text:str", "{text}")
BOX_BUG = _declare("box_bug", "text:str", "{text}")
# wake_affine() had to choose: ``this`` and ``prev`` are the two loads that were compared, scaled and
# biased as the kernel does (0 where idleness decided), ``target`` the CPU chosen, ``rule`` a WA_*.
BOX_WAKE_AFFINE = _declare(
    "box_wake_affine",
    "pid:pid this:int prev:int target:int rule:int",
    "comm={pid_comm} pid={pid} this={this} prev={prev} target={target} rule={rule}",
)
# find_idlest_cpu() looked at one domain of ``from_cpu`` for a fork or an exec and went on at ``cpu``
# (the same: it stayed).  ``local`` and ``idlest`` are the figures that were compared: runnable loads
# or spare capacities of v5.4; from 5.5 on idle CPUs or loads of groups of one type, or -2 - type of
# groups of two types (0 has_spare, 1 fully_busy, 5 overloaded); -1 where there is no such group.
BOX_FIND_IDLEST = _declare(
    "box_find_idlest",
    "pid:pid from_cpu:int cpu:int local:int idlest:int",
    "comm={pid_comm} pid={pid} from_cpu={from_cpu} cpu={cpu} local={local} idlest={idlest}",
)
# A balance pass found a group busier than its own: (busiest << 4 | local) of GROUP_TYPES, and how
# much of what MIGRATION_TYPES names is to move.  box_load_balance of the same pass has it as cause.
BOX_LB_IMBALANCE = _declare(
    "box_lb_imbalance",
    "dst:int level:int types:int migration:int imbalance:int",
    "dst_cpu={dst} level={level} types={types:#x} migration={migration} imbalance={imbalance}",
)
# A completion policy read a sign of saturation of its CPU (``signal``: its place in
# completion.SIGNALS): what it read, the limit, the answer.
BOX_SATURATION = _declare(
    "box_saturation",
    "cpu:int signal:int value:int limit:int saturated:int",
    "cpu={cpu} signal={signal} value={value} limit={limit} saturated={saturated}",
)
# It chose the CPU for the work of pid's finished write (0: no work, completed on the spot), which took
# so many ns; ``why`` is one of COMPLETION_*.
BOX_COMPLETION = _declare(
    "box_completion",
    "work:ptr pid:pid cpu:int why:int cost:int",
    "work struct={work} comm={pid_comm} pid={pid} cpu={cpu} why={why} cost={cost}",
)
# balance_dirty_pages() beyond the free run: the smoothed limit, pages dirty or under writeback, the
# balanced rate and the task's (KB/s), and the pause in ms, 0: none yet.  The kernel's has nine more.
BALANCE_DIRTY_PAGES = _declare(
    "balance_dirty_pages",
    "dirty:int limit:int dirty_ratelimit:int task_ratelimit:int pause:int",
    "limit={limit} dirty={dirty} dirty_ratelimit={dirty_ratelimit} task_ratelimit={task_ratelimit} "
    "pause={pause}",
)
# The flusher, or fsync(), was given so many pages of a file to write, in so many runs.
BOX_WRITEBACK = _declare(
    "box_writeback",
    "dev:dev file:int index:int pages:int runs:int",
    "dev {dev} file={file} index={index} pages={pages} runs={runs}",
)

# The flusher begins, or has ended, one of its works: the pages that it still wants to write, whether it
# is the periodic pass or the background's, and what it is for.
_WRITEBACK = (
    "bdi {bdi}: nr_pages={nr_pages} kupdate={kupdate} background={background} reason={reason}"
)
WRITEBACK_START = _declare(
    "writeback_start", "bdi:bdi nr_pages:int kupdate:int background:int reason:str", _WRITEBACK
)
WRITEBACK_WRITTEN = _declare(
    "writeback_written", "bdi:bdi nr_pages:int kupdate:int background:int reason:str", _WRITEBACK
)
# How many pages are dirty and under writeback, and were written ever, from now on; and the limits.
BOX_PAGE_STATE = _declare(
    "box_page_state",
    "dirty:int writeback:int written:int thresh:int bg_thresh:int",
    "dirty={dirty} writeback={writeback} written={written} thresh={thresh} bg_thresh={bg_thresh}",
)
# A driver that is busy gave a request back; and the average of that of a hardware queue, as a CPU has it.
BLOCK_RQ_REQUEUE = _declare(
    "block_rq_requeue",
    "dev:dev rwbs:str sector:int nr_sector:int errors:int",
    "{dev} {rwbs} () {sector} + {nr_sector} [{errors}]",
)
BOX_DISPATCH_BUSY = _declare(
    "box_dispatch_busy", "dev:dev hctx:int busy:int", "dev {dev} hctx={hctx} dispatch_busy={busy}"
)

BY_NAME: dict[str, Tracepoint] = {point.name: point for point in TRACEPOINTS.values()}
