"""The table of bounds in ``emulator/README.md``: each queue, ring, log, retry and history, and its limit.

A value is read from the constant that is named, so that the table cannot differ from the code.
"""

from importlib import import_module

#: What is bounded, the constant as ``module:NAME``, and what happens when it is full.
BOUNDS: tuple[tuple[str, str, str], ...] = (
    (
        "records of a CPU, a disk, the balancer",
        "emulator.boxfile.schema:RING_BYTES_DEFAULT",
        "the oldest segment goes; `records_lost` in the figures, no verdict (`trace.ring` sets it)",
    ),
    ("names of a ring", "emulator.trace.layout:HEAD_BYTES", "further ones are called `<full>`"),
    ("a name of a ring", "emulator.trace.names:TEXT_BYTES_MAX", "it is cut"),
    (
        "publications of a node",
        "emulator.engine.board:HISTORY_SOFT_MAX",
        "those that no reader can ask for are forgotten; a reader that is behind keeps its own",
    ),
    (
        "frames of a node since its checkpoint",
        "emulator.agents.recovery:LOG_BYTES_MAX",
        "the next checkpoint is due at once, and the log is cut behind it",
    ),
    (
        "a frame between processes",
        "emulator.agents.link:FRAME_BYTES_MAX",
        "its connection is closed: a mistake of ours, no snapshot is as large",
    ),
    (
        "frames of one peer that wait for the coordinator",
        "emulator.agents.link:HUB_QUEUE_MAX",
        "further ones wait in the peer; agents have two under way at most",
    ),
    (
        "answers for a client on this machine that does not read",
        "emulator.agents.link:UNREAD_MAX",
        "dropped for this client, counted in `status` and `engine.unread_answers`",
    ),
    (
        "frames for an observer that does not read",
        "emulator.agents.link:OBSERVER_QUEUE_MAX",
        "it misses some: each says how far the run is, and the next one says it again",
    ),
    ("seals in each other", "emulator.wire:SEALS_MAX", "the frame is refused and counted"),
    ("a frame of a client", "emulator.agents.shapes:CLIENT_BYTES_MAX", "refused and counted"),
    ("words of a command", "emulator.agents.shapes:COMMAND_WORDS_MAX", "refused and counted"),
    ("a word of a command", "emulator.agents.shapes:COMMAND_WORD_MAX", "refused and counted"),
    (
        "commands of a run",
        "emulator.engine.commands:COMMANDS_MAX",
        "further ones are answered with an error",
    ),
    (
        "lines of `refused.log`",
        "emulator.agents.shapes:REFUSALS_LOGGED_MAX",
        "the last line says so; `engine.refused_frames` counts on",
    ),
    (
        "commands under way at the gate",
        "emulator.agents.gate:GATE_PENDING_MAX",
        "further ones are answered with an error",
    ),
    (
        "frames for or of a client of the gate that does not read",
        "emulator.agents.gate:GATE_QUEUE_MAX",
        "dropped for this client; its own frames wait with it",
    ),
    (
        "socket directories looked at by a start",
        "emulator.agents.sockets:STALE_LOOKS_MAX",
        "the next start looks at the rest",
    ),
    (
        "open files per node",
        "emulator.hosterrors:DESCRIPTORS_PER_NODE",
        "a box that cannot have as many does not start, and says how many it needs",
    ),
    (
        "runs of a box that begin in the same second",
        "emulator.rundir:SAME_SECOND_MAX",
        "the next one is refused",
    ),
    ("a box file", "emulator.config:BOX_BYTES_MAX", "refused, as any mistake in it"),
    ("depth of a box file", "emulator.boxfile.yaml_file:DEPTH_MAX", "refused, with its place"),
    ("digits of a number", "emulator.boxfile.reader:DIGITS_MAX", "refused, with its place"),
    (
        "files that a job includes",
        "emulator.workload.fio_job:INCLUDES_MAX",
        "refused, with its place",
    ),
    ("CPUs of a machine", "emulator.types:NR_CPUS_MAX", "refused, with its place"),
    ("tasks of a box", "emulator.boxfile.work:TASKS_MAX", "refused, with its place"),
    (
        "latencies that wait to be counted",
        "emulator.workload.latency:FRESH_MAX",
        "they are counted: bins, not values, are kept",
    ),
    (
        "rounds of softirqs",
        "emulator.kernel.softirq:MAX_SOFTIRQ_RESTART",
        "as in the kernel: ksoftirqd does the rest",
    ),
    (
        "attempts of a SCSI command",
        "emulator.device.controller:SCSI_RETRIES",
        "as in the kernel: the IO fails, which is logged and counted in `devices`",
    ),
    ("runs of a comparison", "emulator.compare:RUNS_MAX", "refused before the first"),
)


def rows() -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [what, f"`{place.rpartition(':')[2]}`", value(place), full] for what, place, full in BOUNDS
    ]


def value(place: str) -> str:
    """Return the value of a constant as people read it."""
    module, _, name = place.partition(":")
    number: int = getattr(import_module(module), name)
    if "BYTES" not in name:
        return f"{number:,}"
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << shift:
            return f"{number >> shift} {unit}"
    return f"{number} bytes"
