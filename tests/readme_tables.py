"""The generated tables of ``emulator/README.md``: files, messages, hotplug steps, frames, bounds.

Each stands between ``<!-- NAME: generated … -->`` and ``<!-- end -->`` and is made from the code that
it describes.  ``python -m tests.readme_tables`` writes them again; ``tests/test_docs.py`` fails where
they differ.
"""

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from emulator.kernel import cpuhp
from emulator.kernel.cpuhp import FIRST_AT_COMMAND, STEPS
from emulator.kernel.frame_ends import ENDS
from emulator.messages import OPS
from tests import bounds_table

CHECKOUT = Path(__file__).parent.parent
README = CHECKOUT / "emulator" / "README.md"

#: Rooms in the order in which the table lists them; "" is the package itself.
ROOMS = (
    "kernel",
    "balance",
    "device",
    "workload",
    "engine",
    "agents",
    "trace",
    "report",
    "report/fio",
    "report/procfs",
    "report/sysstat",
    "boxfile",
    "commands",
    "",
)
BLOCK = re.compile(r"(<!-- (\w+): generated[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
KERNEL_FILE = re.compile(r"``((?:kernel|block|fs|lib|drivers|include)/[\w./*-]+)``")
QUOTED = re.compile(r"``([^`]+)``")
#: Files that a docstring names by their last part, or by a function or structure of theirs.
KNOWN_AS = {
    "fair.c": "kernel/sched/fair.c",
    "hrtimer.c": "kernel/time/hrtimer.c",
    "blk-softirq.c": "block/blk-softirq.c",
    "tick_sched_timer()": "kernel/time/tick-sched.c",
    "scheduler_tick()": "kernel/sched/core.c",
    "scheduler_ipi()": "kernel/sched/core.c",
    "struct request": "include/linux/blkdev.h",
    "struct sched_domain": "include/linux/sched/topology.h",
    "struct sched_group": "kernel/sched/sched.h",
    "struct lb_env": "kernel/sched/fair.c",
}
#: Rooms whose files model kernel files.
MODELS = ("kernel", "balance", "device")
FRAME = re.compile(r"^([A-Z_]+) = (\d+)  # (.+)$", re.MULTILINE)


def readme() -> str:
    """Return the README with every generated table made anew."""
    return BLOCK.sub(
        lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}",
        README.read_text(encoding="utf-8"),
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def files() -> str:
    """Return a table of the machine's files per room: what each is, which kernel file it models."""
    package = CHECKOUT / "emulator"
    paths = [path for room in ROOMS for path in sorted((package / room).glob("[!_]*.py"))]
    return table(
        ("file", "what it is", "kernel files, v5.4"),
        ([f"`{path.relative_to(package)}`", *_about(path)] for path in paths),
    )


# The first paragraph of a docstring is one sentence, and names the kernel files it is about.
def _about(path: Path) -> tuple[str, str]:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    named: dict[str, None] = {}
    if path.parent.name in MODELS:
        for word in QUOTED.findall(first):
            kernel_file = KERNEL_FILE.fullmatch(f"``{word}``")
            if kernel_file or word in KNOWN_AS:
                named[KNOWN_AS.get(word, word)] = None
    return first.replace("``", "`"), " ".join(f"`{name}`" for name in named)


def messages() -> str:
    """Return a table of every message between nodes."""
    return table(
        ("message", "from", "to", "fields", "kind"),
        (
            [
                f"`{op.name}`",
                op.source,
                op.target,
                " ".join(op.args),
                "mail" if op.passive else "active",
            ]
            for op in OPS.values()
        ),
    )


def hotplug() -> str:
    """Return a table of the hotplug steps in the order of going down."""
    return table(
        ("state", "step", "going down", "where", "coming up"),
        (
            [
                str(state),
                f"`{name}`",
                _verb(teardown),
                "at the command" if index >= FIRST_AT_COMMAND else "in the stopper",
                _verb(startup),
            ]
            for index, (state, name, teardown, startup) in reversed(list(enumerate(STEPS)))
        ),
    )


def _verb(function: Callable[..., None]) -> str:
    if function is cpuhp.nothing:
        return "–"
    first = (function.__doc__ or "").partition("\n")[0].replace("``", "`").rstrip(".")
    return f"`{function.__name__}()`: {first}"


def frame_kinds() -> str:
    """Return a table of the execution frames and of the function that ends each."""
    text = (CHECKOUT / "emulator" / "kernel" / "frames.py").read_text(encoding="utf-8")
    return table(
        ("frame", "what the CPU is doing", "ended by"),
        ([f"`{name}`", what, _ender(int(number))] for name, number, what in FRAME.findall(text)),
    )


def _ender(kind: int) -> str:
    handler = ENDS[kind]
    if handler.__name__ == "impossible":
        return "a message or an interrupt"
    return f"`{handler.__module__.rpartition('.')[2]}.{handler.__name__}()`"


def frame_count() -> int:
    """Return how many frames the table of frames should have."""
    text = (CHECKOUT / "emulator" / "kernel" / "frames.py").read_text(encoding="utf-8")
    kinds = text.partition("# Task context")[2].partition("#: Argument of USER")[0]
    return len(re.findall(r"^[A-Z_]+ = \d+", kinds, re.MULTILINE))


def bounds() -> str:
    """Return a table of everything that is bounded."""
    return table(("what", "constant", "value", "when it is full"), bounds_table.rows())


TABLES: dict[str, Callable[[], str]] = {
    "files": files,
    "messages": messages,
    "hotplug": hotplug,
    "frames": frame_kinds,
    "bounds": bounds,
}


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
