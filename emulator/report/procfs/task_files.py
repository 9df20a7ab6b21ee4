"""Files of one task: ``/proc/PID/{comm,cmdline,stat,status,sched,schedstat}``; formats of v5.4.

Fields that a box knows nothing of (memory, terminals, signals) are 0 or left out.
"""

from emulator.kernel.fair_weight import SCHED_PRIO_TO_WEIGHT
from emulator.report.procfs.cpu_files import USER_HZ_NS
from emulator.report.procfs.view import View
from emulator.report.procfs.worker_names import worker_comm
from emulator.types import cpulist_format

STATE_NAMES = {
    "R": "R (running)",
    "S": "S (sleeping)",
    "D": "D (disk sleep)",
    "I": "I (idle)",
}

PF_WQ_WORKER = 0x20
PF_KTHREAD = 0x200000
PF_RANDOMIZE = 0x400000
PF_NO_SETAFFINITY = 0x4000000

SCHED_FIFO = 1
REALTIME = (1, 2)
POLICIES = {"normal": 0, "batch": 3, "idle": 5, "fifo": 1, "rr": 2}

KTHREADD = 2
DEFAULT_PRIO = 120
MAX_RT_PRIO = 100
#: Of nice 0, and of tasks whose class has no weights.
NICE_0_WEIGHT = 1024


def comm(view: View, pid: int) -> str:
    """Return the task's name."""
    view.task(pid)
    return worker_comm(view, pid) + "\n"


def stat(view: View, pid: int) -> str:
    """Return ``/proc/PID/stat``, 52 fields."""
    task = view.task(pid)
    utime, stime = task.cputime(view.now_ns)
    realtime = task.prio < MAX_RT_PRIO
    fields = [
        *(pid, f"({worker_comm(view, pid)})", task.state, *_family(view, pid)),
        *(0, -1, _flags(view, pid)),  # terminal, its group, flags
        *(0, 0, 0, 0),  # page faults
        *(utime // USER_HZ_NS, stime // USER_HZ_NS, 0, 0),
        *(task.prio - MAX_RT_PRIO, 0 if realtime else task.prio - DEFAULT_PRIO, 1, 0),
        *(task.start_ns // USER_HZ_NS, 0, 0, (1 << 64) - 1),
        *[0] * 12,  # addresses, signals, wchan, swap
        *(17, task.cpu, MAX_RT_PRIO - 1 - task.prio if realtime else 0, _policy(view, pid)),
        *[0] * 11,
    ]
    return " ".join(map(str, fields)) + "\n"


def status(view: View, pid: int) -> str:
    """Return ``/proc/PID/status``, as far as it is about scheduling."""
    task = view.task(pid)
    mask = view.cpus_allowed(pid)
    parent = _family(view, pid)[0]
    lines = {
        "Name": worker_comm(view, pid),
        "State": STATE_NAMES.get(task.state, task.state),
        "Tgid": pid,
        "Ngid": 0,
        "Pid": pid,
        "PPid": parent,
        "TracerPid": 0,
        "Threads": 1,
        "Cpus_allowed": mask_format(mask, view.nr_cpus),
        "Cpus_allowed_list": cpulist_format(mask),
        "voluntary_ctxt_switches": task.nvcsw,
        "nonvoluntary_ctxt_switches": task.nivcsw,
    }
    return "".join(f"{name}:\t{value}\n" for name, value in lines.items())


def sched(view: View, pid: int) -> str:
    """Return ``/proc/PID/sched``: the task's entity and its statistics."""
    task = view.task(pid)
    lines = [f"{view.comm(pid)} ({pid}, #threads: 1)", "-" * 67]
    times = {
        "se.exec_start": task.exec_start_ns,
        "se.vruntime": task.vruntime,
        "se.sum_exec_runtime": task.exec_until(view.now_ns),
    }
    lines += [_time_line(name, value) for name, value in times.items() if value is not None]
    lines.append(_line("se.nr_migrations", task.migrations))
    lines += [
        _time_line("se.statistics.sum_sleep_runtime", task.sleep_ns),
        _time_line("se.statistics.wait_max", task.wait_max_ns),
        _time_line("se.statistics.wait_sum", task.delay_ns),
        _line("se.statistics.wait_count", task.slices),
        _line("se.statistics.nr_wakeups", task.wakeups),
    ]
    numbers = {
        "nr_switches": task.nvcsw + task.nivcsw,
        "nr_voluntary_switches": task.nvcsw,
        "nr_involuntary_switches": task.nivcsw,
        "se.load.weight": _weight(task.prio) << 10,
        "policy": _policy(view, pid),
        "prio": task.prio,
    }
    return "\n".join(lines + [_line(*item) for item in numbers.items()]) + "\n"


def schedstat(view: View, pid: int) -> str:
    """Return ``/proc/PID/schedstat``: ns run, ns waited to run, how often it began to run."""
    task = view.task(pid)
    return f"{task.exec_until(view.now_ns)} {task.delay_ns} {task.slices}\n"


def cmdline(view: View, pid: int) -> str:
    """Return ``/proc/PID/cmdline``, nothing for a kernel thread."""
    view.task(pid)
    return "" if view.is_kthread(pid) else view.comm(pid) + "\0"


def sched_debug(view: View) -> str:
    """Return ``/proc/sched_debug``: runqueues and their tasks, by CPU."""
    lines = [
        f"Sched Debug Version: v0.11, {view.spec.kernel.version}",
        f"{'ktime':<40s}: {_ms(view.now_ns)}",
        f"{'jiffies':<40s}: {view.jiffies}",
        "",
    ]
    for number in view.online:
        lines += _cpu_lines(view, number)
    return "\n".join(lines) + "\n"


def _cpu_lines(view: View, number: int) -> list[str]:
    cpu = view.cpus[number]
    pids = [pid for pid in view.pids if view.task(pid).cpu == number]
    running = [pid for pid in pids if view.task(pid).state == "R"]
    numbers = {
        "nr_running": len(running),
        "nr_switches": cpu.switches,
        "curr->pid": cpu.current,
        "clock": _ms(view.now_ns),
        "sched_goidle": cpu.switches_to_idle,
        "ttwu_count": cpu.ttwu,
        "ttwu_local": cpu.ttwu_local,
    }
    lines = [f"cpu#{number}"]
    lines += [f"  .{name:<30s}: {value}" for name, value in numbers.items()]
    head = (
        " S            task   PID         tree-key  switches  prio"
        "     wait-time             sum-exec        sum-sleep"
    )
    lines += ["", "runnable tasks:", head, "-" * 109]
    return [*lines, *(_task_line(view, pid, cpu.current) for pid in pids), ""]


def _task_line(view: View, pid: int, current: int) -> str:
    task = view.task(pid)
    mark = ">R" if pid == current else f" {task.state}"
    times = (task.delay_ns, task.exec_until(view.now_ns), task.sleep_ns)
    columns = " ".join(f"{_ms(ns):>16s}" for ns in times)
    switches = task.nvcsw + task.nivcsw
    key = f"{_ms(task.vruntime or 0):>16s}"
    return f"{mark} {view.comm(pid):>15s} {pid:5d} {key} {switches:9d} {task.prio:5d} {columns}"


# Parent, process group, session.
def _family(view: View, pid: int) -> tuple[int, int, int]:
    return (KTHREADD, 0, 0) if view.is_kthread(pid) else (1, pid, pid)


def _flags(view: View, pid: int) -> int:
    if not view.is_kthread(pid):
        return PF_RANDOMIZE
    bound = PF_NO_SETAFFINITY if view.bound_cpu(pid) >= 0 else 0
    worker = PF_WQ_WORKER if view.comm(pid).startswith("kworker/") else 0
    return PF_KTHREAD | bound | worker


def _policy(view: View, pid: int) -> int:
    # No event tells of `chrt`, but its priority does whether it is a real-time task.
    workload = view.workload(pid)
    realtime = view.task(pid).prio < MAX_RT_PRIO
    started = POLICIES[view.spec.workloads[workload].policy] if workload >= 0 else 0
    if realtime == (started in REALTIME):
        return started
    return SCHED_FIFO if realtime else 0


def _weight(prio: int) -> int:
    return SCHED_PRIO_TO_WEIGHT[prio - MAX_RT_PRIO] if prio >= MAX_RT_PRIO else NICE_0_WEIGHT


def mask_format(mask: int, nr_cpus: int) -> str:
    """Return a mask of CPUs in hexadecimal, in groups of 32 bits, as the kernel prints one."""
    groups = (nr_cpus + 31) // 32
    first = nr_cpus - 32 * (groups - 1)
    words = [mask >> 32 * group & 0xFFFFFFFF for group in reversed(range(groups))]
    return ",".join([f"{words[0]:0{(first + 3) // 4}x}", *(f"{word:08x}" for word in words[1:])])


def _ms(ns: int) -> str:
    sign, whole = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{whole // 1_000_000}.{whole % 1_000_000:06d}"


def _line(name: str, value: int) -> str:
    return f"{name:<45s}:{value:21d}"


def _time_line(name: str, ns: int) -> str:
    return f"{name:<45s}:{_ms(ns):>21s}"
