"""Files about dirty pages: lines of ``/proc/vmstat`` and ``/proc/meminfo``, ``/proc/sys/vm/dirty_*``.

Nothing else of memory is known, so these files have a few lines only.
"""

from emulator.kernel.page_writeback import PAGE_SIZE, DirtySettings, domain_dirty_limits
from emulator.report.procfs.view import NoFileError, View
from emulator.trace.reader import COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D, COLUMN_E
from emulator.tracepoints import BOX_PAGE_STATE

_COLUMNS = (COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D, COLUMN_E)


def is_buffered(view: View) -> bool:
    """Whether anybody in the box writes through the page cache."""
    return view.spec.writes_buffered


def page_state(view: View) -> tuple[int, ...]:
    """Return pages dirty, under writeback and written, and both limits, as last recorded."""
    keeper = next(reader for reader in view.readers if reader.is_cpu)
    state: tuple[int, ...] = (0, 0, 0)
    for piece in keeper.pieces(end=keeper.position_at(view.now_ns)):
        found = piece.select((BOX_PAGE_STATE,))
        if found:
            state = tuple(piece.column(column)[found[-1]] for column in _COLUMNS)
    if len(state) == len(_COLUMNS):
        return state
    return (*state, *domain_dirty_limits(settings(view), view.spec.machine.memory // PAGE_SIZE))


def vmstat(view: View) -> str:
    """Return the lines of ``/proc/vmstat`` about dirty pages, in pages."""
    dirty, writeback, written, thresh, background = page_state(view)
    lines = {
        "nr_dirty": dirty,
        "nr_writeback": writeback,
        "nr_dirtied": dirty + writeback + written,
        "nr_written": written,
        "nr_dirty_threshold": thresh,
        "nr_dirty_background_threshold": background,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def meminfo(view: View) -> str:
    """Return the lines of ``/proc/meminfo`` about dirty pages, in KiB."""
    dirty, writeback, *_ = page_state(view)
    lines = {"Dirty:": dirty, "Writeback:": writeback}
    return "".join(f"{name:<16}{pages * (PAGE_SIZE >> 10):8} kB\n" for name, pages in lines.items())


def settings(view: View) -> DirtySettings:
    """Return ``vm.dirty_*`` after all that was written to them."""
    made = DirtySettings()
    for name, value in view.spec.kernel.sysctls.items():
        if name.startswith("vm."):
            made.write(name, value)
    for command in sorted(set(view.counter.commands)):
        words = command.text.split()
        name, _, written = words[-1].partition("=")
        if words[0] == "sysctl" and name.startswith("vm."):
            try:
                made.write(name, int(written))
            except ValueError:
                continue  # refused then too
    return made


def sysctl_names(view: View) -> list[str]:
    """Return the files below ``/proc/sys/vm``."""
    return sorted(DirtySettings.__slots__) if is_buffered(view) else []


def sysctl(view: View, name: str) -> str:
    """Return ``/proc/sys/vm/dirty_…``."""
    names = sysctl_names(view)
    if name not in names:
        raise NoFileError(f"nothing of that is known; there are {', '.join(names) or 'none'}")
    return f"{getattr(settings(view), name)}\n"
