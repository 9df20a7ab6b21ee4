"""Why a task was moved, or had to wait: by scenes written by hand, and by whole runs."""

import re
from pathlib import Path

import pytest

from emulator.completion import SIGNALS
from emulator.report import phrases
from emulator.report.history import PID_COLUMN, History
from emulator.report.story import Teller
from emulator.report.why import WhyError, answer_lines, explain, pid_of
from emulator.session import Request, run_box
from emulator.trace.reader import COLUMN_E, open_rings
from emulator.tracepoints import (
    BOX_CHECK_PREEMPT,
    BOX_COMPLETION,
    BOX_SATURATION,
    BOX_SELECT_TASK_RQ,
    COMPLETION_WHYS,
    LB_ACTIVE,
    LB_BALANCED,
    LB_RESULTS,
    MIGRATE_ACTIVE,
    MIGRATE_CAUSES,
    MIGRATE_HOTPLUG,
    PLACE_RULES,
    PLACE_TARGET_IDLE,
    PREEMPT_NO_GRANULARITY,
    PREEMPT_WHYS,
    SCHED_MIGRATE_TASK,
    TRACEPOINTS,
)
from tests.report.scenes import FIO, MS, Scene, follow, kworker, pull, push


def told(scene: Scene, pid: int = FIO, at_ns: int | None = None) -> str:
    """Return an answer as one line."""
    return " ".join(" ".join(answer_lines(explain(scene.teller, pid, at_ns), 200)).split())


def in_order(text: str, parts: list[str]) -> None:
    """Assert that parts stand in a text, in that order."""
    at = 0
    for part in parts:
        assert part in text[at:], f"{part!r} is not after {text[:at][-60:]!r} in: {text}"
        at = text.index(part, at) + len(part)


# -- Scenes -------------------------------------------------------------------------------------


def test_a_push_is_told_down_to_the_completion() -> None:
    scene = Scene()
    arrived = push(scene, MS, 1, 2)
    push(scene, arrived, 2, 1)
    text = told(scene)
    in_order(
        text,
        [
            "fio/100 was moved from CPU 2 to CPU 1 at 0.017",
            "pushed away by active balance while it ran",
            "the stopper migration/2 took the CPU from fio/100 and pushed it to CPU 1",
            "because CPU 1's balance pass, made for it by CPU 0, found CPU 2 the busiest but nothing",
            "as at 0.011057, 0.013057, 0.015057 s",
            "its failures count 4 now, more than cache_nice_tries + 2 = 3",
            "it looked because CPU 2's tick saw 2 tasks on its queue, and kicked CPU 0",
            "there kworker/2:1 had waited 7.01 ms on CPU 2 behind fio/100, and it is bound",
            (
                "kworker/2:1 did not preempt fio/100: it was 9 ms behind in vruntime, less than the "
                "wakeup granularity of 15 ms"
            ),
            "it had been woken because the work iomap_dio_complete_work was queued on CPU 2",
            "an IO ended on CPU 2 (WS 4096 + 8)",
            "the disk's timer for it, sdebug_q_cmd_hrt_complete, went off on CPU 2",
            "fio/100 had submitted it on CPU 2",
            "fio/100 had come to CPU 2 from CPU 1, 8.05 ms before, in the same way: it goes back",
        ],
    )
    # What others imply is not said.
    assert "softirq" not in text
    assert "box_" not in text


def test_the_rule_that_keeps_the_counter_is_counted_as_such() -> None:
    scene = Scene()
    push(scene, MS, 1, 2)
    teller = Teller(scene.teller.history, frozenset({"active_balance_keeps_count"}))
    text = " ".join(step.text for step in explain(teller, FIO).steps)
    assert "it has failed 2 times in a row" in text


def test_a_move_after_a_completion_is_told_down_to_the_submission() -> None:
    scene = Scene()
    follow(scene, follow(scene, MS, 1, 2), 2, 1)
    in_order(
        told(scene),
        [
            "fio/100 was moved from CPU 2 to CPU 1",
            "placed on another CPU when it was woken",
            "fio/100, asleep until then, was sent to CPU 1 by its waker",
            (
                "because CPU 1, which it used the time before, was idle and shares a cache, and CPU 2 "
                "was not idle (rule recent_used_cpu)"
            ),
            "because kworker/2:1 woke fio/100 while it sat itself on CPU 2, where fio/100 had run",
            "because kworker/2:1 ran the work iomap_dio_complete_work, 6 µs after it was queued",
            "because the work iomap_dio_complete_work was queued on CPU 2",
            "because fio/100 had submitted it on CPU 2",
            "fio/100 had come to CPU 2 from CPU 1, 60 µs before, in the same way",
        ],
    )


def test_a_pull_is_told_with_the_pass_and_with_who_had_the_cpu() -> None:
    scene = Scene()
    pull(scene, MS, 1, 2)
    in_order(
        told(scene),
        [
            "fio/100 was moved from CPU 1 to CPU 2",
            "pulled for CPU 2, which was idle, by the idle load balancer, while it waited",
            "because CPU 2's balance pass, made for it by CPU 0, found CPU 1 the busiest and took",
            "it looked because CPU 1's tick saw 2 tasks",
            "there fio/100 had waited 5 µs on CPU 1 behind kworker/1:1",
            (
                "because the tick took the CPU from fio/100: kworker/1:1 was 22 ms behind in vruntime, "
                "more than one slice of 12 ms"
            ),
            "kworker/1:1 had waited 11 ms for it until then",
            "because kworker/1:1 did not preempt fio/100",
        ],
    )


def test_a_worker_is_told_why_it_waits_and_how_it_got_the_cpu() -> None:
    scene = Scene()
    push(scene, MS, 1, 2)
    waits = told(scene, kworker(1), 6 * MS)
    in_order(
        waits,
        [
            "kworker/1:1 waits on CPU 1 at 0.006000 s: woken 4 ms before.",
            "fio/100 had CPU 1, since 0.001000 s",
            "because kworker/1:1 did not preempt fio/100",
            "it had been woken because the work iomap_dio_complete_work was queued",
        ],
    )
    ran = told(scene, kworker(1))
    in_order(
        ran,
        [
            "kworker/1:1 ran on CPU 1 at 0.009012 s, 7.01 ms after it was woken.",
            "kworker/1:1 got CPU 1 after migration/1 had pushed fio/100 away",
            "because CPU 2's balance pass",
            "while fio/100 had CPU 1",
        ],
    )


def test_a_preemption_is_told_by_its_test() -> None:
    scene = Scene()
    pull(scene, MS, 1, 2)
    in_order(
        told(scene, FIO, 13 * MS + 3_000),
        [
            "fio/100 lost CPU 1 to kworker/1:1 at 0.013002 s: it was preempted.",
            "kworker/1:1 took the CPU from fio/100 after 12 ms",
            "because the tick took the CPU from fio/100",
        ],
    )


def test_a_placement_that_moves_nothing_is_told_too() -> None:
    scene = Scene()
    args = (FIO, 1, 1, 1, PLACE_TARGET_IDLE)
    scene.emit(1, MS, BOX_SELECT_TASK_RQ, 0, 0, *args)
    text = told(scene, FIO, 2 * MS)
    assert text.startswith("fio/100 stayed on CPU 1 when it was woken at 0.001000 s.")
    assert "was idle (rule target_idle)" in text


def test_a_move_is_told_even_where_its_cause_is_gone() -> None:
    scene = Scene()
    scene.migrate(1, MS, 0, 2, MIGRATE_HOTPLUG, 77 << 40 | 5)
    assert told(scene) == (
        "fio/100 was moved from CPU 1 to CPU 2 at 0.001000 s: its CPU went away. "
        "0.001000 s CPU 1 fio/100 left CPU 1 for CPU 2"
    )


def test_who_does_nothing_is_said_to_do_nothing() -> None:
    scene = Scene()
    with pytest.raises(
        WhyError, match="no task has the pid 5; there are tasks called fio, kworker"
    ):
        explain(scene.teller, 5)
    with pytest.raises(WhyError, match=r"fio/100 was neither moved nor kept waiting$"):
        explain(scene.teller, FIO)
    with pytest.raises(WhyError, match=r"nor kept waiting up to 0\.001000 s$"):
        explain(scene.teller, FIO, MS)
    with pytest.raises(WhyError, match="no task is called 'dd'"):
        pid_of(scene.teller.history, "dd")
    assert pid_of(scene.teller.history, "kworker/2:1") == kworker(2)


def test_what_was_weighed_is_told_with_the_decision() -> None:
    scene = Scene()
    # A record of the same pass in the same instant, as later events may be: here quoted.
    scene.emit(3, MS, BOX_CHECK_PREEMPT, 0, 0, 2, 0, 0, 0, 0)
    entry = scene.entry(scene.balance(MS, 2, 1, LB_BALANCED, 0))
    assert list(scene.teller.weighed(entry)) == []
    scene.emit(3, 2 * MS, TRACEPOINTS_BY_NAME["box_nohz_kick"], 0, 0, 2, 7, 1, 3)
    entry = scene.entry(scene.balance(2 * MS, 2, 1, LB_BALANCED, 0))
    assert [step.text for step in scene.teller.weighed(entry)] == [
        (
            "CPU 3's tick saw 7 tasks on its queue, and kicked CPU 2, the first idle one, to balance "
            "for all idle CPUs"
        )
    ]


TRACEPOINTS_BY_NAME = {point.name: number for number, point in TRACEPOINTS.items()}


def test_a_push_with_nobody_waiting_says_so() -> None:
    scene = Scene()
    scene.switch(1, MS, 0, kworker(1))
    scene.switch(1, 2 * MS, kworker(1), FIO, 1)
    cause = scene.balance(3 * MS, 2, 1, LB_ACTIVE, 5)
    scene.migrate(1, 3 * MS + 10, 21, 2, MIGRATE_ACTIVE, cause)
    assert "but nobody waited for CPU 1" in told(scene)
    teller = Teller(scene.teller.history, frozenset({"eevdf"}))
    assert explain(teller, FIO).steps[-1].text == (
        "nobody waited for CPU 1: kworker/1:1 had gone to sleep 1 ms before, and may still be "
        "counted where its dequeue is delayed"
    )


# -- Phrases ------------------------------------------------------------------------------------


def test_every_entry_of_the_tables_has_a_phrase() -> None:
    assert phrases.unspoken() == {}


@pytest.mark.parametrize("rule", range(len(PLACE_RULES) + 1))
def test_a_rule_of_placement_in_words(rule: int) -> None:
    scene = Scene()
    args = (FIO, 1, 1, 2, rule)
    entry = scene.entry(scene.emit(1, MS, BOX_SELECT_TASK_RQ, 0, 0, *args))
    text = scene.teller.say(entry)
    assert "CPU 2" in text
    assert "{" not in text
    if rule == len(PLACE_RULES):
        assert text == f"CPU 2 was chosen by the rule {rule}"


@pytest.mark.parametrize("why", range(len(PREEMPT_WHYS) + 1))
def test_an_answer_of_a_preemption_test_in_words(why: int) -> None:
    scene = Scene()
    args = (kworker(1), FIO, 4 * MS, 15 * MS, why)
    entry = scene.entry(scene.emit(1, MS, BOX_CHECK_PREEMPT, 0, 0, *args))
    text = scene.teller.say(entry)
    assert "fio/100" in text
    assert "{" not in text
    if why == len(PREEMPT_WHYS):
        assert text == f"kworker/1:1 against fio/100: {why} (behind by 4 ms, compared with 15 ms)"


def test_who_is_ahead_already_is_said_to_be() -> None:
    scene = Scene()
    args = (kworker(1), FIO, -4 * MS, 15 * MS, PREEMPT_NO_GRANULARITY)
    entry = scene.entry(scene.emit(1, MS, BOX_CHECK_PREEMPT, 0, 0, *args))
    assert scene.teller.say(entry).endswith("its own vruntime was 4 ms ahead")


@pytest.mark.parametrize("why", range(len(COMPLETION_WHYS) + 1))
def test_what_a_completion_policy_chose_in_words(why: int) -> None:
    scene = Scene()
    entry = scene.entry(scene.emit(1, MS, BOX_COMPLETION, 0, 0, 77, FIO, 2, why, 350))
    text = scene.teller.say(entry)
    assert text.startswith("the completion policy ")
    assert "CPU 2" in text or "fio/100 itself" in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("signal", "value", "saturated", "text"),
    [
        (
            "head_age",
            2 * MS,
            1,
            "it asked head_age whether CPU 1 is saturated, which read 2 ms: it is",
        ),
        ("worklist", 3, 0, "it asked worklist whether CPU 1 is saturated, which read 3: it is not"),
    ],
)
def test_what_a_signal_read_in_words(signal: str, value: int, saturated: int, text: str) -> None:
    scene = Scene()
    number = list(SIGNALS).index(signal)
    args = (1, number, value, SIGNALS[signal].limit, saturated)
    assert scene.teller.say(scene.entry(scene.emit(1, MS, BOX_SATURATION, 0, 0, *args))) == text


@pytest.mark.parametrize("result", range(len(LB_RESULTS) + 1))
def test_the_result_of_a_pass_in_words(result: int) -> None:
    scene = Scene()
    entry = scene.entry(scene.balance(MS, 2, 1, result, 1))
    text = scene.teller.say(entry)
    assert text.startswith("CPU 2's balance pass while idle ")
    assert "{" not in text


@pytest.mark.parametrize("why", [*MIGRATE_CAUSES, 99])
def test_a_move_in_words(why: int) -> None:
    scene = Scene()
    scene.migrate(1, MS, 0, 2, why, 0)
    text = told(scene)
    assert text.startswith("fio/100 was moved from CPU 1 to CPU 2 at 0.001000 s: ")
    assert "{" not in text


@pytest.mark.parametrize("number", TRACEPOINTS)
def test_every_event_can_be_said_or_is_passed_over(number: int) -> None:
    scene = Scene()
    entry = scene.entry(scene.emit(1, MS, number, FIO, 0, 0, 0, 0, 0, 0))
    text = scene.teller.say(entry)
    assert "{" not in text
    name = TRACEPOINTS[number].name
    if name not in phrases.EVENT_PHRASES:
        assert text.startswith(name)
        assert all(field in text for field, _kind in TRACEPOINTS[number].fields)


def test_phrases_are_of_events_and_fields_that_there_are() -> None:
    assert set(phrases.EVENT_PHRASES) <= set(TRACEPOINTS_BY_NAME)
    assert set(phrases.PLACE_PHRASES) <= set(PLACE_RULES)
    assert set(phrases.PREEMPT_PHRASES) <= set(PREEMPT_WHYS)
    assert set(phrases.LB_PHRASES) <= set(LB_RESULTS)


# -- Runqueues ----------------------------------------------------------------------------------


def test_who_waited_is_found_from_the_last_idle_moment_on() -> None:
    scene = Scene()
    arrived = push(scene, MS, 1, 2)
    history = scene.teller.history
    early = history.queue_at(1, MS + 500_000)
    assert (early.current, early.waiting) == (FIO, {})
    later = history.queue_at(1, 5 * MS)
    assert (later.current, later.since_ns, later.waiting) == (FIO, MS, {kworker(1): 2 * MS})
    # The stopper runs, fio waits, and then is gone.
    stopped = history.queue_at(1, 9 * MS + 10_000)
    assert set(stopped.waiting) == {FIO, kworker(1)}
    gone = history.queue_at(1, 9 * MS + 11_000)
    assert set(gone.waiting) == {kworker(1)}
    # What was pushed to CPU 2 waits there until it is switched to.
    assert set(history.queue_at(2, arrived).waiting) == {FIO}
    assert history.queue_at(1, arrived).current == 0


# -- Whole runs ---------------------------------------------------------------------------------


def _run(tmp_path: Path, box: str, *overrides: str, duration: str) -> Teller:
    out = tmp_path / "run"
    request = Request(box, overrides, None, duration, "inline", False, out, True, False)
    run_box(request, tmp_path)
    return Teller(History(open_rings(out)))


def test_the_tuned_case_tells_the_whole_chain(tmp_path: Path) -> None:
    teller = _run(tmp_path, "xfs-aio-4k-tuned", duration="1s")
    pid = pid_of(teller.history, "fio")
    # Its last move may be a pull; the chain of the thread is that of a push.
    push_columns = {PID_COLUMN: pid, COLUMN_E: MIGRATE_ACTIVE}
    pushed = teller.history.last((SCHED_MIGRATE_TASK,), push_columns)
    assert pushed is not None
    answer = explain(teller, pid, pushed.time_ns)
    text = " ".join(step.text for step in answer.steps)
    in_order(
        text,
        [
            "the stopper migration/",
            "its failures count 4 now, more than cache_nice_tries + 2 = 3",
            "tick saw 2 tasks on its queue, and kicked CPU",
            "behind fio/10000, and it is bound to that CPU",
            (
                "did not preempt fio/10000: it was 12 ms behind in vruntime, less than the wakeup "
                "granularity of 15 ms"
            ),
            "the work iomap_dio_complete_work was queued on CPU",
            "sdebug_q_cmd_hrt_complete, went off on CPU",
            "fio/10000 had submitted it on CPU",
            "fio/10000 had come to CPU",
        ],
    )
    # All of it is about one CPU, that which fio was pushed from.
    [source] = re.findall(r"moved from CPU (\d+)", answer.headline)
    assert f"queued on CPU {source}:" in text
    assert f"kworker/{source}:1 had waited" in text


def test_the_512_byte_case_tells_the_whole_chain(tmp_path: Path) -> None:
    teller = _run(tmp_path, "xfs-aio-512", "warmup=50ms", duration="300ms")
    text = " ".join(step.text for step in explain(teller, pid_of(teller.history, "fio")).steps)
    in_order(
        text,
        [
            "fio/10000, asleep until then, was sent to CPU",
            "was idle and shares a cache",
            "woke fio/10000 while it sat itself on CPU",
            "ran the work iomap_dio_complete_work",
            "went off on CPU",
            "fio/10000 had submitted it on CPU",
            "in the same way: it goes back and forth",
        ],
    )
