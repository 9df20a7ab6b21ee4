"""The machine of a running box at a glance: which CPUs are online, what they do, which tasks they have."""

from collections.abc import Iterator
from itertools import groupby

from emulator.kernel.kthread import FIRST_USER_PID
from emulator.report.procfs.view import View

#: So many waiting or sleeping tasks of a CPU are named.
TASKS_SHOWN = 8


def machine_lines(view: View) -> Iterator[str]:
    """Yield a line per CPU, or per neighbours that are alike: what runs there, and its other tasks.

    Kernel threads are named only where they run.
    """
    places: dict[int, list[int]] = {}
    for pid in view.pids:
        places.setdefault(view.task(pid).cpu, []).append(pid)
    texts = [_text(view, cpu, places.get(cpu, [])) for cpu in range(view.nr_cpus)]
    for text, same in groupby(range(view.nr_cpus), key=texts.__getitem__):
        cpus = list(same)
        name = f"CPU {cpus[0]}" if len(cpus) == 1 else f"CPUs {cpus[0]}-{cpus[-1]}"
        yield f"{name}: {text}"


def _text(view: View, cpu: int, pids: list[int]) -> str:
    if cpu not in view.online:
        return "offline"
    current = view.cpus[cpu].current
    text = f"{view.comm(current)}-{current} runs" if current else "idle"
    others = [pid for pid in pids if pid >= FIRST_USER_PID and pid != current]
    for pid in others[:TASKS_SHOWN]:
        text += f", {view.comm(pid)}-{pid} {_doing(view.task(pid).state)}"
    if len(others) > TASKS_SHOWN:
        text += f" and {len(others) - TASKS_SHOWN} more"
    return text


def _doing(state: str) -> str:
    return "waits to run" if state.startswith("R") else f"sleeps ({state})"
