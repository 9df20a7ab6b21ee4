"""What can be said to a running box: one table, from which help and completion are made."""

from itertools import chain
from textwrap import wrap

from emulator.trace.watch import NAMED

#: What a line says, and what it does; in groups, each with a word on what it is about.
VERBS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "How far it runs",
        (
            ("pause", "stand still, as soon as may be"),
            ("continue", "go on"),
            ("step 10ms", "go on for so long, then stand still"),
            ("step to 1.5s", "go on until then"),
            ("step until EVENT", "go on until the nanosecond after the next such event"),
            ("status", "where it is, its CPUs and tasks, what it was told"),
        ),
    ),
    (
        "CPUs",
        (
            ("cpu offline N", "walk the hotplug steps down"),
            ("cpu online N", "and up again"),
            ("cpu kill N", "offline, then end the CPU's process for good"),
            ("cpu load N --percent P", "a program that is busy P % of the time; 0 removes it"),
        ),
    ),
    (
        "Tasks and tunables",
        (
            ("taskset TASK CPULIST", "it may run on these CPUs only; also `task affine`"),
            ("renice TASK NICE", "from -20 to 19"),
            ("chrt TASK POLICY [PRIO]", "normal, batch, idle; fifo and rr, 1 to 99, of one CPU"),
            ("workload add FILE", "start what a YAML file with workloads: or a .fio file says"),
            ("workload stop NAME", "its tasks end: fio as on SIGTERM, others at their next step"),
            ("policy +NAME", "decide by a remedy that `policies` lists; -NAME: no longer"),
            ("completion WHERE", "where a finished write's work goes; `policies` lists them"),
            ("sysctl NAME=VALUE", "such as kernel.sched_latency_ns=4000000"),
        ),
    ),
    (
        "Disks",
        (
            (
                "irq N affinity CPULIST",
                "a disk's interrupt moves, as /proc/irq/N/smp_affinity_list",
            ),
            ("disk NAME error OPTIONS", "requests fail"),
            ("disk NAME drop OPTIONS", "requests are never answered"),
            ("disk NAME lose-irq OPTIONS", "interrupts are lost"),
            ("disk NAME busy TIME", "the driver cannot queue for so long"),
            ("disk NAME slow F TIME", "what is rung within it takes F times as long"),
            ("disk NAME reset", "all requests are given back and sent again"),
        ),
    ),
)

NOTES = (
    "TASK is a pid, or a name: then the first task of that name.",
    "N is a CPU, or of:TASK: the CPU on which the first task of that name then is.",
    "OPTIONS of a disk's fault: sector=A-B every=N count=K, and medium for an error.",
    "While the box stands still, a command is noted, and takes effect when it goes on.",
)

EVENTS = (
    "EVENT is the name of an event as `logs` shows it, or one of: " + ", ".join(NAMED) + ".",
    "With by=TIME the box goes so far at once, which is faster, and may stand as much behind it.",
    "Filters follow it: cpu=N (in whose log it is), pid=N, task=NAME, or a field of the event:",
)

EXAMPLES = (
    "step until active balance",
    "step until sched_switch cpu=2 task=fio",
    "step until sched_migrate_task why=newidle dest_cpu=3",
    "step until block_rq_complete rwbs=R by=5ms",
)

#: The column in which it is said what a line does.
COLUMN = 28


def help_lines(width: int) -> list[str]:
    """Return all that can be said to a box, as lines of text."""
    lines: list[str] = []
    for title, rows in VERBS:
        lines += [f"{title}:", *(f"  {usage:<{COLUMN}}{about}" for usage, about in rows), ""]
    for text in EVENTS:
        lines += wrap(text, width)
    lines += [*(f"  {example}" for example in EXAMPLES), ""]
    return [*lines, *chain.from_iterable(wrap(text, width) for text in NOTES)]


def click_help() -> str:
    """Return the same as paragraphs that click leaves as they are."""
    return "\b\n" + "\n".join(help_lines(88)).replace("\n\n", "\n\n\b\n")
