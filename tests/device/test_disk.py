"""The device node: its log, its schedules, its answers."""

from typing import Any

import pytest

from emulator import messages, wire
from emulator import tracepoints as tp
from emulator.config import load_box
from emulator.device.disk import Disk
from emulator.trace.ring import MemoryRing
from emulator.types import DOORBELL_PERIOD_NS, NEVER, SCHEDULE_REQUESTS, BoxSpec, Message

SERVICE_NS = 41_000
SPEC = load_box("xfs-aio-4k-tuned").resolve()
COHERENCE_NS = SPEC.costs.coherence_ns
DEVICE = SPEC.machine.nr_cpus + 1


def disk(spec: BoxSpec = SPEC) -> tuple[Disk, MemoryRing]:
    """Return the disk of a box and its ring."""
    ring = MemoryRing("dev-sda", DEVICE)
    return Disk(spec, 0, ring), ring


def without_schedules() -> BoxSpec:
    return load_box("xfs-aio-4k-tuned", ("disks.sda.schedules=false",)).resolve()


def bell(rung_ns: int, cookie: int, service_ns: int = SERVICE_NS) -> list[int]:
    return [rung_ns, cookie, 8 * cookie, 8, 1, rung_ns + service_ns]


def message(effect_ns: int, cpu: int, op: int, *args: Any) -> Message:
    return (effect_ns, cpu, effect_ns, DEVICE, op, args)


def mail(sent_ns: int, cpu: int, *bells: list[int]) -> Message:
    return message(sent_ns + COHERENCE_NS, cpu, messages.DOORBELLS, list(bells))


def sent(node: Disk) -> list[tuple[int, int, tuple[Any, ...]]]:
    """Return (target, op, arguments) of what a disk has sent since it was last asked."""
    found = [(m[3], m[4], m[5]) for m in node.outbox]
    node.outbox.clear()
    return found


def times(ring: MemoryRing) -> list[int]:
    return [record[0] for record in ring.records if record[1] == tp.BOX_DOORBELL]


# -- The log ----------------------------------------------------------------------------------------


def test_doorbells_of_a_period_are_logged_in_order_of_time_whoever_mailed_first() -> None:
    node, ring = disk()
    end_ns = DOORBELL_PERIOD_NS
    node.deliver(mail(end_ns, 5, bell(2_000, 51), bell(9_000_000, 52)))
    node.deliver(mail(3_000_000, 3, bell(1_000, 31)))
    node.deliver(mail(end_ns, 3, bell(8_000_000, 32)))
    assert node.next_event_ns() == end_ns + COHERENCE_NS
    node.advance(end_ns + COHERENCE_NS, NEVER)
    assert times(ring) == []
    node.advance(end_ns + COHERENCE_NS + 1, NEVER)
    assert times(ring) == [1_000, 2_000, 8_000_000, 9_000_000]
    assert node.next_event_ns() == NEVER
    assert sent(node) == []


def test_what_rang_in_a_period_that_is_not_over_waits_for_its_end() -> None:
    node, ring = disk()
    end_ns = DOORBELL_PERIOD_NS
    node.deliver(mail(end_ns, 0, bell(1_000, 1), bell(end_ns, 2)))
    node.advance(end_ns + DOORBELL_PERIOD_NS, NEVER)
    assert times(ring) == [1_000]
    node.deliver(mail(end_ns + DOORBELL_PERIOD_NS, 1, bell(end_ns, 11), bell(end_ns + 5, 12)))
    node.advance(3 * DOORBELL_PERIOD_NS, NEVER)
    assert times(ring) == [1_000, end_ns, end_ns, end_ns + 5]


def test_mail_bounds_nobody_and_wakes_the_disk_at_the_end_of_the_period() -> None:
    node, _ring = disk()
    node.advance(5_000_000, NEVER)
    promise = node.promise()
    assert promise.next_ns == NEVER
    assert promise.send_ns == [NEVER] * 3
    assert not promise.mail_sends
    assert promise.mail_ns == DOORBELL_PERIOD_NS + COHERENCE_NS


def test_a_difference_is_a_bug() -> None:
    node, _ring = disk()
    node.deliver(mail(DOORBELL_PERIOD_NS, 0, bell(1_000, 1, SERVICE_NS + 1)))
    with pytest.raises(AssertionError, match="BUG: sda completes request 0x1 of CPU 0 at 42000"):
        node.advance(2 * DOORBELL_PERIOD_NS, NEVER)


# -- Schedules --------------------------------------------------------------------------------------


def ask(node: Disk, at_ns: int, cpu: int, rings: int) -> None:
    node.deliver(message(at_ns, cpu, messages.SCHEDULE_REQUEST, rings))
    node.advance(at_ns + 1, NEVER)


def test_a_schedule_is_renewed_once_its_doorbells_are_seen() -> None:
    node, _ring = disk()
    half = SCHEDULE_REQUESTS // 2
    bells = [bell(1_000 + number, number) for number in range(half)]
    node.deliver(mail(2_000_000, 2, *bells))
    ask(node, 2_000_000 + COHERENCE_NS, 2, half)
    assert sent(node) == [(2, messages.SCHEDULE, (0, SERVICE_NS, half))]


def test_a_doorbell_that_never_came_is_a_bug() -> None:
    node, _ring = disk()
    node.deliver(mail(1_000, 2, bell(1_000, 1)))
    with pytest.raises(AssertionError, match="BUG: CPU 2 has rung sda 2 times, 1 seen"):
        ask(node, 5_000, 2, 2)


def test_an_answer_is_never_faster_than_one_cpu_reaches_another() -> None:
    node, _ring = disk()
    costs = SPEC.costs
    ask(node, 1_000, 2, 0)
    assert node.outbox[0][0] >= 1_000 + min(costs.ipi_ns, costs.ttwu_activate_ns)


def test_schedules_off_announces_nothing() -> None:
    node, _ring = disk(without_schedules())
    node.deliver(message(1_000, 2, messages.DOORBELL, 7, 41_900))
    node.advance(2_000, NEVER)
    assert [m[0] for m in node.outbox] == [41_900]
    assert sent(node) == [(2, messages.COMPLETION, (7, 0))]


def test_a_completion_sorts_by_its_cookie_and_before_other_answers_of_the_instant() -> None:
    node, _ring = disk(without_schedules())
    node.deliver(message(1_000, 2, messages.TAG_REQUEST, 8, 0, 0))
    for cookie in (900, 7):
        node.deliver(message(1_000, 2, messages.DOORBELL, cookie, 50_000))
    node.advance(1_001, NEVER)
    grant, *completions = node.outbox
    assert [m[2] for m in sorted(completions)] == [7, 900]
    assert grant[2] > 1023 << 40  # the greatest cookies


def test_a_disk_is_restored_with_its_log_and_what_it_has_announced() -> None:
    node, _ring = disk()
    node.deliver(mail(1_000, 2, bell(1_000, 1)))
    node.deliver(mail(DOORBELL_PERIOD_NS, 2, bell(2_000, 2)))
    node.announced_to.remove(3)
    ask(node, 5_000, 2, 1)
    node.outbox.clear()
    state = wire.pack(node.snapshot())
    twin, ring = disk()
    twin.restore(wire.unpack(state))
    assert wire.pack(twin.snapshot()) == state
    twin.advance(2 * DOORBELL_PERIOD_NS, NEVER)
    assert times(ring) == [1_000, 2_000]
    assert 3 not in twin.announced_to
