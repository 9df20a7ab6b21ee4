"""What a CPU promises the others; that the promises hold is shown by the identity tests."""

from __future__ import annotations

import pytest

from emulator import messages
from emulator.kernel import promises
from emulator.kernel.cpu import Cpu
from emulator.kernel.process import WAIT_TAG
from emulator.kernel.request import Request
from emulator.types import NEVER, SCHEDULE_REQUESTS, TO_DEVICE, DiskSpec
from tests.kernel.box import US, costs, lone_cpu, null_blk, scsi_debug, sleeping_task

HALF = SCHEDULE_REQUESTS // 2
NOW = 100


def io_cpu(disk: DiskSpec | None = None) -> Cpu:
    """Return a CPU with a disk; a dispatch takes 2 µs, a further IO of an io_submit() 3 µs."""
    charges = costs(dispatch_ns=2 * US, io_submit_ns=5 * US, io_submit_more_ns=3 * US)
    cpu, _, _ = lone_cpu(0, 2, charges=charges, disk=disk or scsi_debug(41 * US))
    (q,) = cpu.queues
    q.asks = True
    q.lease, q.announced = 12, SCHEDULE_REQUESTS
    return cpu


@pytest.mark.parametrize(
    ("lease", "asked", "requests"),
    [(12, False, 10), (3, False, 1), (2, False, 0), (0, False, 0), (0, True, 1), (12, True, 10)],
)
def test_a_device_is_sent_nothing_while_the_lease_lasts(
    lease: int, asked: bool, requests: int
) -> None:
    cpu = io_cpu()
    (q,) = cpu.queues
    q.lease, q.tag_asked = lease, asked
    # With an elevator a tag is taken at dispatch, without one at submission.
    assert promises.device_sends(cpu, NOW) == NOW + requests * 2 * US
    q.elevator = None
    assert promises.device_sends(cpu, NOW) == NOW + requests * 3 * US


@pytest.mark.parametrize(
    ("announced", "asked", "requests"),
    [(HALF + 4, False, 3), (HALF + 1, False, 0), (HALF, False, 0), (4, True, 4), (0, True, 0)],
)
def test_nor_while_the_schedule_does(announced: int, asked: bool, requests: int) -> None:
    cpu = io_cpu()
    (q,) = cpu.queues
    q.announced, q.schedule_asked = announced, asked
    assert promises.device_sends(cpu, NOW) == NOW + requests * 2 * US


def test_a_service_that_is_never_asked_for_needs_no_schedule() -> None:
    cpu = io_cpu()
    (q,) = cpu.queues
    q.asks, q.announced = False, 0
    assert promises.device_sends(cpu, NOW) == NOW + 10 * 2 * US


def test_who_sleeps_for_a_tag_takes_it_without_more_work() -> None:
    cpu = io_cpu()
    sleeping_task(cpu).run.wait = WAIT_TAG
    assert promises.device_sends(cpu, NOW) == NOW


def test_an_adopted_request_gives_its_tag_back_when_it_ends() -> None:
    cpu = io_cpu()
    rq = Request()
    rq.cookie, rq.tag_cpu = 7, 1
    cpu.inflight[7] = rq
    cpu.adopted = True
    assert promises.device_sends(cpu, NOW) == NOW
    rq.tag_cpu = 0
    assert promises.device_sends(cpu, NOW) > NOW
    rq.tag_cpu = 1
    cpu.done_list.append(cpu.inflight.pop(7))
    assert promises.device_sends(cpu, NOW) == NOW


def test_without_disks_or_events_there_is_nothing_to_send() -> None:
    cpu, _, _ = lone_cpu(0, 2)
    assert promises.device_sends(cpu, NEVER) == NEVER
    assert promises.device_sends(io_cpu(null_blk(2)), NEVER) == NEVER


def idle_cpu() -> Cpu:
    """Return a CPU that halts with its tick stopped."""
    cpu = io_cpu()
    cpu.advance(5_000 * US, NEVER)
    assert cpu.tick_stopped
    return cpu


def test_a_halted_cpu_that_will_only_ring_doorbells_counts_as_asleep() -> None:
    cpu = idle_cpu()
    assert cpu.promise().halted
    note = (9_000 * US, 0, 1, 0, messages.RING_DOORBELLS, (0,))
    cpu.deliver(note)
    assert cpu.promise().halted
    assert cpu.promise().next_ns == 9_000 * US
    cpu.add_timer(8_000 * US, 2, None)
    assert not cpu.promise().halted


def test_a_cpu_with_a_completion_to_come_is_not_asleep() -> None:
    cpu = idle_cpu()
    cpu.deliver((9_000 * US, 2, 1, 0, messages.COMPLETION, (7, 0, 1)))
    assert not cpu.promise().halted
    assert cpu.promise().send_ns[TO_DEVICE] > 9_000 * US


def test_who_expects_mail_goes_no_further_than_it_may_have_come() -> None:
    cpu = idle_cpu()
    cpu.expect[500] = 1
    cpu.advance(7_000 * US, 6_000 * US)
    assert cpu.reached_ns == 6_000 * US
    assert not cpu.wants_view  # nothing to do before the bound: no need to hurry
    del cpu.expect[500]
    cpu.advance(7_000 * US, 6_000 * US)
    assert cpu.reached_ns == 7_000 * US
