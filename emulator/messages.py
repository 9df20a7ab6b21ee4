"""The messages that pass between nodes: every op, its direction, its fields, its class.

A message is the tuple ``(effect_ns, source, seq, target, op, args)``.  Fields of an op are only ever
appended.  How a message becomes bytes is :mod:`emulator.wire`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emulator.types import COORDINATOR, Message


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op: number, name, who sends it to whom, its argument names, whether it is passive mail."""

    code: int
    name: str
    source: str
    target: str
    args: tuple[str, ...]
    passive: bool = False


OPS: dict[int, OpSpec] = {}


def _op(code: int, name: str, source: str, target: str, args: str, *, passive: bool = False) -> int:
    assert code not in OPS
    OPS[code] = OpSpec(code, name, source, target, tuple(args.split()), passive)
    return code


# Passive mail: below 16, see PASSIVE_OPS_END.
DIO_DONE = _op(
    1,
    "dio_done",
    "cpu",
    "cpu",
    "pid moves file iocb res waker_cpu waker_pid cause sync",
    passive=True,
)
DOORBELLS = _op(3, "doorbells", "cpu", "device", "requests", passive=True)
NOHZ_UPDATE = _op(4, "nohz_update", "cpu", "balancer", "kind value", passive=True)
POLL_ENTRY = _op(5, "poll_entry", "cpu", "cpu", "pid moves request", passive=True)
PASSIVE_OPS_END = 16
# CPU to CPU.
ACTIVATE = _op(16, "activate", "cpu", "cpu", "pid task wake_flags waker_cpu cause")
NOHZ_KICK = _op(18, "nohz_kick", "cpu", "cpu", "flags cause")
CALL_COMPLETE = _op(19, "call_complete", "cpu", "cpu", "request cause")
ADOPT = _op(20, "adopt", "cpu", "cpu", "tasks state")
RCU_REPORT = _op(21, "rcu_report", "cpu", "cpu", "gp_seq waker_pid cause")
PIPE_DATA = _op(
    22,
    "pipe_data",
    "cpu",
    "cpu",
    "pid moves pipe number value writer_pid writer_moves writer_cpu decision cause",
)
PIPE_WAIT = _op(23, "pipe_wait", "cpu", "cpu", "pid moves pipe reader_moves reader_cpu since task")
QUEUE_WORK = _op(24, "queue_work", "cpu", "cpu", "item waker_cpu waker_pid")
RUN_HW_QUEUE = _op(25, "run_hw_queue", "cpu", "cpu", "state work waker_cpu waker_pid cause")
# CPU and balancer.
BALANCE = _op(32, "balance", "cpu", "balancer", "kind value avg_idle cause")
BALANCE_DONE = _op(33, "balance_done", "balancer", "cpu", "kind pulled facts kicked")
DETACH = _op(34, "detach", "balancer", "cpu", "env")
DETACHED = _op(35, "detached", "cpu", "balancer", "env tasks facts")
ATTACH = _op(36, "attach", "balancer", "cpu", "tasks why cause")
STOP = _op(37, "stop", "balancer", "cpu", "push_cpu env cause")
STOPPED = _op(38, "stopped", "cpu", "balancer", "push_cpu result hot")
BALANCE_PAY = _op(39, "balance_pay", "balancer", "cpu", "cost_ns")
BALANCE_PAID = _op(40, "balance_paid", "cpu", "balancer", "need_resched")
# CPU and device.
TAG_REQUEST = _op(48, "tag_request", "cpu", "device", "nr must pid")
TAG_GRANT = _op(49, "tag_grant", "device", "cpu", "index nr mode must waker_cpu waker_pid cause")
SCHEDULE = _op(50, "schedule", "device", "cpu", "index service_ns count")
COMPLETION = _op(51, "completion", "device", "cpu", "cookie status announced")
DOORBELL = _op(52, "doorbell", "cpu", "device", "cookie done_ns")
TAG_RETURN = _op(53, "tag_return", "cpu", "device", "nr cpu why waiters restart waker_pid cause")
SCHEDULE_REQUEST = _op(54, "schedule_request", "cpu", "device", "rings")
RING_DOORBELLS = _op(55, "ring_doorbells", "cpu", "itself", "index")
# CPU and the shared-state node, or the node of a CPU that is offline: pools that are asked.
WQ_QUEUE = _op(70, "wq_queue", "cpu", "shared", "ticket pool cpu item")
WQ_QUEUED = _op(71, "wq_queued", "shared", "cpu", "ticket work cause activated wakes")
WQ_FETCH = _op(72, "wq_fetch", "cpu", "any", "ticket pool pid starts moves since task")
WQ_WORK = _op(73, "wq_work", "any", "cpu", "ticket what given starts activated wakes")
WQ_FLUSH = _op(75, "wq_flush", "cpu", "any", "pid moves queue")
WQ_FLUSHED = _op(76, "wq_flushed", "any", "cpu", "pid moves nr waker_cpu waker_pid cause")
WQ_REBIND = _op(77, "wq_rebind", "cpu", "cpu", "pid moves home")
WQ_WATCH = _op(78, "wq_watch", "cpu", "any", "")
WQ_STALLED = _op(79, "wq_stalled", "any", "cpu", "lines")
WQ_CPU = _op(92, "wq_cpu", "cpu", "shared", "cpu online")
WQ_WAKE = _op(74, "wq_wake", "cpu", "cpu", "pid moves decision waker_cpu waker_pid cause")
# Devices that are given each request (device/controller.py).  A request is the device's from its
# doorbell until an interrupt, or an event (send it again), gives it back.
REQUEST = _op(
    56,
    "request",
    "cpu",
    "device",
    "request rung_ns cookie ctx_cpu rw sector nr_sector pid iocb polled",
)
INTERRUPT = _op(57, "interrupt", "device", "cpu", "index vector entries polled")
#: In an INTERRUPT's ``polled``: it is none, but entries of a polled queue that are there to be found.
POSTED = 2
TAG_FREED = _op(58, "tag_freed", "cpu", "cpu", "index waker_pid cause driver request")
TAG_RECALL = _op(59, "tag_recall", "device", "cpu", "index mode")
TAG_WAKE = _op(90, "tag_wake", "device", "cpu", "index pid waker_cpu waker_pid cause")
TIMEOUT = _op(60, "timeout", "device", "cpu", "index")
SCAN = _op(61, "scan", "cpu", "device", "")
DRIVER_EVENT = _op(62, "driver_event", "device", "cpu", "index requests lines")
CPU_STATE = _op(63, "cpu_state", "cpu", "device", "online")
# Buffered writes: CPUs and the one that keeps what is dirty.
WB_WRITE = _op(80, "wb_write", "cpu", "cpu", "file offset length counts")
WB_WRITTEN = _op(81, "wb_written", "cpu", "cpu", "counts pause again start looked")
WB_ASK = _op(82, "wb_ask", "cpu", "cpu", "disk file begin pid moves")
WB_RUNS = _op(83, "wb_runs", "cpu", "cpu", "verdict file runs again notes")
WB_END = _op(84, "wb_end", "cpu", "cpu", "file first nr kind error waker_pid cause")
WB_WAKE = _op(85, "wb_wake", "cpu", "cpu", "pid moves waker_cpu waker_pid cause")
# Commands, from the coordinator; one that is passed on to another CPU is answered in the place of
# the node that was asked first.
COMMAND = _op(64, "command", "any", "any", "words place act")
COMMAND_DONE = _op(65, "command_done", "any", "coordinator", "words answer place")
PUBLISH_DOMAINS = _op(66, "publish_domains", "balancer", "cpu", "facts")


def is_passive(op: int) -> bool:
    """Whether messages of this op are mail that a running receiver need not see at once."""
    return op < PASSIVE_OPS_END


def message_from_list(items: list[Any]) -> Message:
    """Rebuild a message from its unpacked array."""
    effect_ns, source, seq, target, op, args = items
    return (effect_ns, source, seq, target, op, tuple(args))


__all__ = [
    "ACTIVATE",
    "ADOPT",
    "ATTACH",
    "BALANCE",
    "BALANCE_DONE",
    "BALANCE_PAID",
    "BALANCE_PAY",
    "CALL_COMPLETE",
    "COMMAND",
    "COMMAND_DONE",
    "COMPLETION",
    "COORDINATOR",
    "CPU_STATE",
    "DETACH",
    "DETACHED",
    "DIO_DONE",
    "DOORBELL",
    "DOORBELLS",
    "DRIVER_EVENT",
    "INTERRUPT",
    "NOHZ_KICK",
    "NOHZ_UPDATE",
    "OPS",
    "PASSIVE_OPS_END",
    "PIPE_DATA",
    "PIPE_WAIT",
    "POLL_ENTRY",
    "POSTED",
    "PUBLISH_DOMAINS",
    "QUEUE_WORK",
    "RCU_REPORT",
    "REQUEST",
    "RING_DOORBELLS",
    "RUN_HW_QUEUE",
    "SCAN",
    "SCHEDULE",
    "SCHEDULE_REQUEST",
    "STOP",
    "STOPPED",
    "TAG_FREED",
    "TAG_GRANT",
    "TAG_RECALL",
    "TAG_REQUEST",
    "TAG_RETURN",
    "TAG_WAKE",
    "TIMEOUT",
    "WB_ASK",
    "WB_END",
    "WB_RUNS",
    "WB_WAKE",
    "WB_WRITE",
    "WB_WRITTEN",
    "WQ_CPU",
    "WQ_FETCH",
    "WQ_FLUSH",
    "WQ_FLUSHED",
    "WQ_QUEUE",
    "WQ_QUEUED",
    "WQ_REBIND",
    "WQ_STALLED",
    "WQ_WAKE",
    "WQ_WATCH",
    "WQ_WORK",
    "OpSpec",
    "is_passive",
    "message_from_list",
]
