"""Bounds of a few nodes by what they promise, without windows around them."""

from emulator.engine.node import Latencies, Promise
from emulator.engine.outlook import Outlook
from emulator.types import NEVER

NR_CPUS = 3
LATENCIES = Latencies(cpu_ns=500, device_ns=100, balancer_ns=500, coherence_ns=100)


def outlook(*described: tuple[int, int, int]) -> Outlook:
    """Return CPUs with (next event, earliest send, from when mail makes it send), and a balancer."""
    found = Outlook(NR_CPUS, NR_CPUS + 1, LATENCIES)
    silent = (NEVER, NEVER, NEVER)
    for node, (next_ns, send_ns, mail_ns) in enumerate((*described, silent)):
        promise = Promise(0, next_ns, [send_ns] * 3, mail_ns)
        found.set(node, promise, NEVER, next_ns)
    found.compare()
    return found


def test_who_may_be_woken_by_mail_bounds_the_others_from_the_first_mail_on() -> None:
    # CPU 1 sleeps on mail, which CPU 0 may send at 1000; CPU 2 may be sent its wakeup 500 ns later.
    found = outlook((1_000, NEVER, NEVER), (NEVER, NEVER, 0), (5_000, NEVER, NEVER))
    assert found.bound(2)[0] == 1_000 + 100 + 500


def test_a_nodes_own_mail_does_not_bound_it() -> None:
    # What CPU 0 sends at 1000 lowers its limit there; until CPU 2 acts no other mail comes.
    found = outlook((1_000, NEVER, NEVER), (NEVER, NEVER, 0), (5_000, NEVER, NEVER))
    assert found.bound(0)[0] == 5_000 + 100 + 500


def test_mail_that_comes_later_than_the_node_is_ready_for_it() -> None:
    found = outlook((1_000, NEVER, NEVER), (NEVER, NEVER, 3_000), (5_000, NEVER, NEVER))
    assert found.bound(2)[0] == 3_000 + 500
    assert found.bound(0)[0] == 5_000 + 100 + 500
