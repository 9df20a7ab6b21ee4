"""``kernel.completion``: names, batches, signals with their limits, and what is refused."""

import pytest

from emulator.completion import COMPLETIONS, SIGNALS, CompletionSpec
from emulator.completion_word import live_problem, resolve_completion
from emulator.config import BoxError, load_box
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.rules import Rules, rules_of

CFS = Rules()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("bound", CompletionSpec()),
        ("next-online", CompletionSpec("next-online")),
        ("round-robin", CompletionSpec("round-robin", 8)),
        ("wq-cache-bound:1", CompletionSpec("wq-cache-bound", 1)),
        ("unless-saturated", CompletionSpec("unless-saturated", 0, (("preempt", 0),))),
        (
            "unless-saturated:stint=4ms+not_idle",
            CompletionSpec("unless-saturated", 0, (("stint", 4_000_000), ("not_idle", 0))),
        ),
        ("unless-saturated:psi=25", CompletionSpec("unless-saturated", 0, (("psi", 25),))),
        ("unless-saturated:worklist", CompletionSpec("unless-saturated", 0, (("worklist", 16),))),
        ("rescue", CompletionSpec("rescue", 0, (("head_age", 1_000_000),))),
        ("rescue:worklist=4", CompletionSpec("rescue", 0, (("worklist", 4),))),
    ],
)
def test_what_a_box_may_say(text: str, spec: CompletionSpec) -> None:
    assert resolve_completion(text, CFS) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("next-onlin", "did you mean next-online"),
        ("bound:3", "takes nothing"),
        ("round-robin:0", "1 to 4096"),
        ("round-robin:", "1 to 4096"),
        ("unless-saturated:hunger", "no signal"),
        ("unless-saturated:stint=4", "not a duration"),
        ("unless-saturated:not_idle=1", "no limit"),
        ("unless-saturated:util=101", "0 to 100"),
        ("unless-saturated:util+util=90", "there twice"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        resolve_completion(text, CFS)


def test_runnable_is_there_from_5_7_on() -> None:
    with pytest.raises(ValueError, match=r"runnable reads runnable_avg, which is there from 5\.7"):
        resolve_completion("unless-saturated:runnable", rules_of("5.4"))
    spec = resolve_completion("unless-saturated:runnable=90", rules_of("5.10"))
    assert spec.signals == (("runnable", 90),)


def test_preempt_is_a_question_for_cfs() -> None:
    with pytest.raises(ValueError, match="EEVDF"):
        resolve_completion("unless-saturated", rules_of("6.6"))
    assert resolve_completion("unless-saturated:stint", rules_of("6.6")).signals


def test_a_box_says_it_and_it_survives_the_wire() -> None:
    words = ["kernel.completion=unless-saturated:head_age=2ms+worklist=4"]
    spec = load_box("xfs-aio-4k-tuned", words).resolve()
    assert spec.kernel.completion.signals == (("head_age", 2_000_000), ("worklist", 4))
    assert spec_from_plain(spec_to_plain(spec)) == spec
    assert load_box("xfs-aio-4k-tuned").resolve().kernel.completion == CompletionSpec()


def test_a_mistake_has_its_place() -> None:
    with pytest.raises(BoxError, match=r"kernel\.completion"):
        load_box("xfs-aio-4k-tuned", ["kernel.completion=elsewhere"])


def test_every_row_says_what_it_is() -> None:
    assert all(row.changes and row.outcome and row.fix for row in COMPLETIONS.values())
    assert all(row.asserted and row.stale for row in SIGNALS.values())


def test_unbound_policies_make_the_queues_unbound() -> None:
    plain = load_box("xfs-aio-4k-tuned", ["kernel.completion=wq-unbound"]).resolve().kernel
    assert plain.workqueue.unbound == ("dio", "xfs-conv")
    assert not plain.rules.wq_affinity_scopes  # a pool per node, as 5.4 has them
    cache = load_box("xfs-aio-4k-tuned", ["kernel.completion=cache-pool-strict"]).resolve().kernel
    assert cache.rules.wq_affinity_scopes
    assert (cache.workqueue.affinity_scope, cache.workqueue.affinity_strict) == ("cache", True)


def test_the_others_are_for_bound_queues() -> None:
    words = ["kernel.completion=next-online", "kernel.workqueue.unbound=[dio]"]
    with pytest.raises(BoxError, match="is for bound workqueues"):
        load_box("xfs-aio-4k-tuned", words)


@pytest.mark.parametrize(
    ("settings", "word", "why"),
    [
        ((), "wq-unbound", "the workqueues are made at boot"),
        ((), "cache-pool", "say it in the box file"),
        (("kernel.completion=wq-unbound",), "round-robin", "booted with dio unbound"),
        ((), "unless-saturated:psi", "the signal psi reads what is counted from boot on"),
        ((), "unless-saturated:nr_running+run_delay", "the signal run_delay"),
        (("kernel.completion=unless-saturated:psi",), "unless-saturated:psi=30", ""),
        (("kernel.completion=unless-saturated:psi",), "bound", ""),
        ((), "caller", ""),
        ((), "wq-cache-bound:2", ""),
        ((), "round-robin:0", "1 to 4096"),
    ],
)
def test_what_a_box_that_runs_may_go_over_to(
    settings: tuple[str, ...], word: str, why: str
) -> None:
    kernel = load_box("xfs-aio-4k-tuned", settings).resolve().kernel
    problem = live_problem(word, kernel)
    assert why in problem
    assert bool(problem) == bool(why)
