"""What a person tells a running CPU: offline, kill, load, sysctl, policies, affinity, nice; how tasks start.

Theory of operation
-------------------
A command takes effect at its stamp, like any message, and is answered to the coordinator: at once,
or, where the CPU has to go down first, when it is down.  What cannot be done is a refusal, never a
failure.

``of:NAME`` means the CPU on which the first task of that name then is (CPU 1 if that is CPU 0, which
cannot go offline).  Such a command goes to every CPU.  The one that owns the task acts.  If the task
is in a message, its sender passes the command on to where it went, to take effect right after the
arrival; whoever acts then answers in the sender's place.  Everybody else answers that there is
nothing to say.

``cpu load`` starts a task that is pinned here.  If the CPU went offline meanwhile, the kernel has
broken the task's affinity; what is left of it elsewhere is told to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    blk_timeout,
    core,
    cpuhp,
    dio_completion,
    fair,
    kthread,
    mail,
    migration,
    setscheduler,
)
from emulator.kernel.sched import FAIR_CLASS, POLICIES, TASK_WAKING
from emulator.rules import changed, live_switches
from emulator.types import COORDINATOR, cpulist_parse

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

NOBODY = -1
#: First words of commands about one task, wherever it is.
ABOUT_TASKS = ("task", "renice", "taskset", "chrt")
#: The box's own words, between CPUs: ["set_load", pid, percent].
SET_LOAD = "set_load"


def handle(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """Carry out a command line at its emulated time: (words[, in whose place[, act here]])."""
    words = list(args[0])
    place = args[1] if len(args) > 1 else NOBODY
    if words[0] == "spawn" and not isinstance(words[2], str):
        spawn(cpu, words)
    elif words[0] == SET_LOAD:
        end_load(cpu, words)
    elif words[0] in ("cpu", "spawn") and str(words[2]).startswith("of:") and len(args) < 3:
        find(cpu, words, place, str(words[2]).removeprefix("of:"))
    elif words[0] in ABOUT_TASKS and len(args) < 3:
        find(cpu, words, place, task_of(words))
    else:
        act(cpu, words, place)


# -- of:NAME ------------------------------------------------------------------------------------


def find(cpu: Cpu, words: list[Any], place: int, name: str) -> None:
    """Act if the first task of that name is here, or pass the command on to where it is going."""
    pid = first_pid(cpu, name)
    if pid in cpu.tasks:
        if words[0] == "spawn":
            spawn(cpu, [words[0], words[1], words[3]], cpu.node_id)
        elif words[0] == "chrt" and cpu.tasks[pid].state == TASK_WAKING:
            # p->pi_lock is the waker's; it will be queued here, or be on its way.
            when = cpu.now + max(cpu.costs.ttwu_activate_ns, 1)
            args = (words, place if place >= 0 else cpu.node_id)
            cpu.deliver((when, COORDINATOR, pid, cpu.node_id, messages.COMMAND, args))
        elif cpu.node_id == 0 and words[1] in ("offline", "kill") and cpu.nr_cpus > 1:
            send_command(cpu, 1, (words, place if place >= 0 else 0, 1), cpu.now)
        else:
            act(cpu, words, place)
        return
    # A command that was passed on follows the task; a fresh one does so while the task travels.
    arrival_ns = cpu.arrivals.get(pid, -1)
    if pid in cpu.forward and (place >= 0 or arrival_ns >= cpu.now):
        target = cpu.forward[pid][1]
        send_command(cpu, target, (words, place if place >= 0 else cpu.node_id), arrival_ns + 1)
    elif words[0] != "spawn":  # nobody asked for that, so nobody waits for an answer
        cpu.answer(words, "", place)


def task_of(words: list[Any]) -> str:
    """Return the task that a command of :data:`ABOUT_TASKS` names: by the first of a name, or its pid."""
    return str(words[2] if words[0] == "task" else words[1])


def first_pid(cpu: Cpu, name: str) -> int:
    """Return a pid, or that of the first task of a workload; 0 if there is none."""
    if name.isdecimal():
        return int(name)
    for index, workload in enumerate(cpu.spec.workloads):
        if workload.name == name:
            return kthread.FIRST_USER_PID + 100 * index
    return 0


def send_command(cpu: Cpu, target: int, args: tuple[Any, ...], soonest_ns: int) -> None:
    """Pass a command on to another CPU."""
    costs = cpu.costs
    effect_ns = max(soonest_ns, cpu.now + max(costs.ipi_ns, costs.ttwu_activate_ns))
    cpu.send(target, messages.COMMAND, args, effect_ns, cpuhp.reply_ns(cpu))


# -- Acting -------------------------------------------------------------------------------------


def act(cpu: Cpu, words: list[Any], place: int) -> None:
    """Do here what the command says, and answer unless the CPU goes down for it."""
    cpu.cause = cpu.emit(tp.BOX_COMMAND, cpu.sink.intern(" ".join(str(word) for word in words)))
    verb = words[1] if words[0] in ("cpu", "task") else words[0]
    if verb in ("offline", "kill"):
        answer = cpuhp.cpu_down(cpu, verb == "kill")
        if not answer:
            cpu.going_down = [words, place, int(verb == "kill"), done(cpu, words)]
            return
    elif verb == "online":
        answer = cpuhp.cpu_up(cpu)
    elif verb == "load":
        answer = load(cpu, int(words[-1]))
    elif words[0] == "disk":
        answer = blk_timeout.struck(cpu, [str(word) for word in words])
    elif words[0] == "irq":
        answer = ""  # the device answers
    elif verb in ("affine", "taskset"):
        answer = affine(cpu, task_of(words), str(words[-1]))
    elif verb == "policy":
        answer = policy(cpu, str(words[1]))
    elif verb == "completion":
        answer = dio_completion.change(cpu, str(words[1]))
    elif verb == "chrt":
        answer = chrt(cpu, *words[1:])
    elif verb == "renice":
        answer = renice(cpu, task_of(words), int(words[2]))
    else:
        assert verb == "sysctl", cpu.story(f"unknown command {words}")
        answer = sysctl(cpu, str(words[1]))
    cpu.answer(words, done(cpu, words) if answer == "done" else answer, place)


def done(cpu: Cpu, words: list[Any]) -> str:
    """Return the answer that a command was carried out, saying where if it did not say itself."""
    by_name = words[0] in ABOUT_TASKS or (words[0] == "cpu" and str(words[2]).startswith("of:"))
    return f"done on CPU {cpu.node_id}" if by_name else "done"


def sysctl(cpu: Cpu, assignment: str) -> str:
    """Write ``NAME=VALUE``; a value out of bounds is refused, as EINVAL."""
    name, _, value = assignment.partition("=")
    try:
        if name.startswith("vm."):
            if cpu.backing is not None:
                cpu.backing.write_sysctl(name, int(value))
            return "done"
        by_scaling = cpu.rq.rules.nr_latency_by_scaling
        fair.sched_proc_update_handler(cpu.rq.tun, name, int(value), by_scaling)
    except ValueError as error:
        return f"refused: {error}"
    return "done"


def policy(cpu: Cpu, word: str) -> str:
    """``+NAME``, ``-NAME``: decide by a proposal's rules from now on, or not by them any more."""
    rules = changed(cpu.rq.rules, live_switches(word))
    if rules == cpu.rq.rules:
        return f"refused: {word[1:]} is {'on' if word[0] == '+' else 'off'} already"
    cpu.policies.append(word)
    cpu.rq.use_rules(rules)
    return "done"


def affine(cpu: Cpu, name: str, cpulist: str) -> str:
    """``taskset`` of a task, which is here."""
    p = cpu.tasks[first_pid(cpu, name)]
    if p.state == tp.TASK_DEAD:
        return f"refused: {p.comm} has ended"
    problem = migration.set_cpus_allowed_ptr(cpu, p, cpulist_parse(cpulist))
    return f"refused: {problem}" if problem else "done"


def renice(cpu: Cpu, name: str, nice: int) -> str:
    """``renice`` of a task, which is here: ``setpriority()``, and ``set_user_nice()`` of its class."""
    p = cpu.tasks[first_pid(cpu, name)]
    if p.state == tp.TASK_DEAD:
        return f"refused: {p.comm} has ended"
    if p.sched_class != FAIR_CLASS:
        return f"refused: {p.comm} is no fair task: its nice level would change nothing"
    rq = cpu.rq
    asked = rq.need_resched
    fair.update_rq_clock(rq, cpu.now)
    rq.fair.set_user_nice(rq, p, nice)
    core.smp_send_reschedule_here(cpu, asked)
    cpu.publish()
    return "done"


def chrt(cpu: Cpu, name: str, policy_name: str, rt_priority: str = "0") -> str:
    """``chrt`` of a task, which is here: ``sched_setscheduler()``."""
    p = cpu.tasks[first_pid(cpu, name)]
    if p.state == tp.TASK_DEAD:
        return f"refused: {p.comm} has ended"
    number = POLICIES[policy_name]
    problem = setscheduler.sched_setscheduler(cpu, p, number, int(rt_priority))
    return f"refused: {problem}" if problem else "done"


# -- Load and start -----------------------------------------------------------------------------


def load(cpu: Cpu, percent: int) -> str:
    """``cpu load N --percent P``: a pinned program that runs P % of every 10 ms; 0 removes it."""
    if not cpu.active:
        return f"refused: CPU {cpu.node_id} is offline"
    had = set_load(cpu, percent)
    if had == "here" or (had and not percent):
        return "done"
    if not percent:
        return "nothing to remove: there is no load on this CPU"
    program = cpu.programs.load(percent, cpu.now)
    p = kthread.fork(
        cpu,
        kthread.late_pid(cpu),
        f"load/{cpu.node_id}",
        0,
        1 << cpu.node_id,
        program,
        kthread=False,
        figure=False,
        target=cpu.node_id,
    )
    cpu.load_pid = p.pid
    return "done"


def set_load(cpu: Cpu, percent: int) -> str:
    """Change this CPU's load where it is: "here", or told to end "elsewhere"; "" if there is none."""
    pid = cpu.load_pid
    p = cpu.tasks.get(pid)
    if p is not None and p.state != tp.TASK_DEAD:
        p.run.program.set_percent(percent)
        return "here"
    if p is None and pid in cpu.forward:
        cpu.load_pid = 0
        end_load(cpu, [SET_LOAD, pid, 0])
        return "elsewhere"
    return ""


def end_load(cpu: Cpu, words: list[Any]) -> None:
    """A load that another CPU started is to end: it is here, or has moved on, or is over."""
    pid = words[1]
    p = cpu.tasks.get(pid)
    if p is not None:
        p.run.program.set_percent(words[2])
    elif pid in cpu.forward:
        send_command(cpu, cpu.forward[pid][1], (words,), cpu.arrivals.get(pid, -1) + 1)


def spawn(cpu: Cpu, words: list[Any], bind_to: int = -1) -> None:
    """Start a task of the box's workloads: words = ["spawn", workload index, pid].

    ``bind_to`` is the CPU to which the task binds itself, as one does that is to be where another
    task is; those begin as ["spawn", index, "of:NAME", pid].
    """
    _spawn, index, pid = words
    workload = cpu.spec.workloads[index]
    programs = cpu.programs
    kthread.fork(
        cpu,
        pid,
        workload.name,
        workload.nice,
        workload.cpus_allowed,
        programs.make(index) if bind_to < 0 else programs.make_bound(index, bind_to),
        workload.kthread,
        workload.figure,
        workload.start_cpu,
        POLICIES[workload.policy],
        workload.slice_ns,
        workload.rt_priority,
    )
    mail.deliver_held(cpu, pid)  # its pipes may have been written to before it was there
