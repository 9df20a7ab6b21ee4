"""Dirty limits and pauses: the worked examples of io-and-workqueue.md E, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.kernel import page_writeback as pw

GIB = 1 << 18  # pages


@pytest.mark.parametrize(
    ("gib", "thresh", "background", "free_run"),
    [(1, 52_416, 26_176, 39_296), (4, 209_664, 104_704, 157_184), (16, 838_656, 418_816, 628_736)],
)
def test_E_1_limits_of_1_4_and_16_GiB(
    gib: int, thresh: int, background: int, free_run: int
) -> None:
    limits = pw.domain_dirty_limits(pw.DirtySettings(), gib * GIB)
    assert limits == (thresh, background)
    assert pw.dirty_freerun_ceiling(*limits) == free_run


def test_E_1_bytes_override_ratios_and_a_background_above_the_limit_is_half_of_it() -> None:
    settings = pw.DirtySettings()
    settings.write("vm.dirty_bytes", 100 * 4096 + 1)
    assert pw.domain_dirty_limits(settings, GIB) == (101, 50)
    settings.write("vm.dirty_background_bytes", 4096 * 20)
    assert pw.domain_dirty_limits(settings, GIB) == (101, 20)
    settings.write("vm.dirty_ratio", 20)
    assert settings.dirty_bytes == 0
    assert pw.domain_dirty_limits(settings, GIB) == (52_416, 20)


def test_E_1_privileged_tasks_get_a_quarter_and_a_32nd_of_the_smoothed_limit_more() -> None:
    limits = pw.domain_dirty_limits(pw.DirtySettings(), GIB, privileged=True, dirty_limit=52_416)
    assert limits == (52_416 + 13_104 + 1_638, 26_176 + 6_544 + 1_638)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vm.dirty_ratio", 101), ("vm.dirty_bytes", 4096), ("vm.swappiness", 10)],
)
def test_a_value_out_of_bounds_and_an_unknown_name_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        pw.DirtySettings().write(name, value)


def test_E_2_a_cpu_forces_a_look_after_a_32nd_of_its_share_and_never_before_16_pages() -> None:
    assert pw.ratelimit_pages(209_664, 4) == 1_638
    assert pw.ratelimit_pages(1_000, 8) == 16


def test_E_5_1_below_the_free_run_the_next_look_is_after_128_pages() -> None:
    assert pw.dirty_poll_interval(150_000, 209_664) == 128


def test_E_2_at_the_limit_every_page_is_looked_at() -> None:
    assert pw.dirty_poll_interval(209_664, 209_664) == 1


@pytest.mark.parametrize(
    ("dirty", "ratio"), [(0, 2048), (500, 2033), (750, 1024), (900, 806), (1000, 14)]
)
def test_E_2_position_ratio_with_setpoint_750_and_limit_1000(dirty: int, ratio: int) -> None:
    assert pw.pos_ratio_polynom(750, dirty, 1000) == ratio


def balanced_at_setpoint() -> pw.Throttle:
    """A disk that has the whole domain and is exactly at its setpoint."""
    thresh, background = 209_664, 104_704
    setpoint = (pw.dirty_freerun_ceiling(thresh, background) + thresh) // 2
    return pw.Throttle(setpoint, thresh, background, thresh, setpoint, thresh)


def test_E_2_the_disks_own_line_is_1_at_its_setpoint() -> None:
    assert pw.wb_position_ratio(balanced_at_setpoint(), 25_600) in (1023, 1024)


def test_E_2_at_the_limit_the_ratio_is_0_and_the_pause_is_the_longest() -> None:
    dtc = balanced_at_setpoint()
    dtc.dirty = dtc.thresh
    task = pw.Dirtier(32, 32, 5_000)
    assert pw.wb_position_ratio(dtc, 25_600) == 0
    assert pw.dirty_pause(task, dtc, 25_600, 25_600, 10_000, 1000) == (200, 0)


def test_E_2_vector_pauses() -> None:
    """25,600 pages/s, ratio 1, 10,000 pages of the disk, 256 dirtied, no pause before."""
    assert pw.wb_max_pause(10_000, 25_600, 1000) == 50
    assert pw.task_ratelimit(25_600, 1024) == 25_600
    assert pw.wb_min_pause(50, 25_600, 25_600, 25_600, 1000) == (6, 250)


def test_E_2_vector_a_task_that_dirtied_256_pages_sleeps_10_ms() -> None:
    dtc = balanced_at_setpoint()
    task = pw.Dirtier(256, 250, 0)
    pause, rate = pw.dirty_pause(task, dtc, 25_600, 25_600, 10_000, 1000)
    assert rate in range(25_500, 25_601)
    assert pause == 10
    assert (task.nr_dirtied, task.nr_dirtied_pause, task.paused_when) == (0, 250, 10_010)


def test_E_2_7_a_pause_too_short_is_credit_for_the_next_one() -> None:
    dtc = balanced_at_setpoint()
    task = pw.Dirtier(128, 128, 9_999)
    pause, _rate = pw.dirty_pause(task, dtc, 25_600, 25_600, 10_000, 1000)
    assert pause == 0  # 5 - 1 is less than 6
    assert (task.nr_dirtied, task.paused_when) == (0, 9_999 + 5)


def test_E_2_7_who_was_idle_for_a_second_has_its_credit_forgotten() -> None:
    dtc = balanced_at_setpoint()
    task = pw.Dirtier(256, 250, 8_000)
    assert pw.dirty_pause(task, dtc, 25_600, 25_600, 10_000, 1000)[0] == 0
    assert (task.nr_dirtied, task.paused_when) == (0, 10_000)


def test_E_2_6_a_slow_disk_gets_32_pages_per_look() -> None:
    # 1,000 pages/s: 10 ms would be 9 pages; 32 of them are 32 ms (1024 jiffies a second).
    assert pw.wb_min_pause(200, 1_000, 1_000, 1_000, 1000) == (17, 32)


def test_E_2_6_the_target_grows_where_the_disk_is_faster_than_the_ratelimit() -> None:
    # ilog2(25,600) - ilog2(3,200) = 3: 10 + 3 * 10,000 / 1024 = 39 jiffies.
    assert pw.wb_min_pause(200, 25_600, 3_200, 3_200, 1000) == (1 + 39 // 2, 3_200 * 39 // 1024)


def test_E_3_chunk_of_a_fast_disk_is_13312_pages() -> None:
    assert pw.writeback_chunk_size(25_600, 209_664, pw.LONG_MAX, False) == 13_312
    assert pw.writeback_chunk_size(25_600, 209_664, 10, False) == 1_024
    assert pw.writeback_chunk_size(25_600, 209_664, 10, True) == pw.LONG_MAX


def test_the_write_bandwidth_follows_the_disk() -> None:
    wb = pw.Bandwidth()
    written = 0
    for sample in range(1, 200):
        written += 2_000  # 10,000 pages/s
        assert pw.update_bandwidth(wb, None, 0, written, 0, 200 * sample, 1000)
    assert abs(wb.write_bandwidth - 10_000) < 150
    assert abs(wb.avg_write_bandwidth - 10_000) < 700
    assert wb.dirty_ratelimit == pw.INIT_BW  # the flusher leaves it alone


def test_no_sample_within_200_ms_and_none_of_an_idle_second() -> None:
    wb = pw.Bandwidth()
    assert not pw.update_bandwidth(wb, None, 0, 500, 0, 199, 1000)
    assert pw.update_bandwidth(wb, None, 0, 500, 1_900, 2_000, 1000)
    assert wb.write_bandwidth == pw.INIT_BW
    assert (wb.written_stamp, wb.bw_time_stamp) == (500, 2_000)


def test_after_more_than_three_seconds_the_sample_is_the_bandwidth() -> None:
    wb = pw.Bandwidth()
    pw.wb_update_write_bandwidth(wb, 40_000, 5_000, 1000)
    assert (wb.write_bandwidth, wb.avg_write_bandwidth) == (8_000, 8_000)


def test_the_ratelimit_sinks_to_the_disks_rate_while_a_task_dirties_faster() -> None:
    wb = pw.Bandwidth()
    dtc = balanced_at_setpoint()
    dirtied = written = 0
    rates = []
    for sample in range(1, 400):
        ratio = pw.wb_position_ratio(dtc, wb.avg_write_bandwidth)
        rates.append(pw.task_ratelimit(wb.dirty_ratelimit, ratio))
        dirtied += rates[-1] // 5  # one task, at exactly what it is allowed
        written += 1_000  # 5,000 pages/s
        dtc.dirty = dtc.wb_dirty = dtc.dirty + rates[-1] // 5 - 1_000
        pw.update_bandwidth(wb, dtc, dirtied, written, 0, 200 * sample, 1000)
    assert abs(wb.avg_write_bandwidth - 5_000) < 100
    assert abs(rates[-1] - 5_000) < 250
    assert dtc.dirty < dtc.thresh


def test_the_smoothed_limit_rises_at_once_and_sinks_slowly() -> None:
    assert pw.update_dirty_limit(1_000, 2_000, 0) == 2_000
    assert pw.update_dirty_limit(2_000, 1_000, 500) == 2_000 - 1_000 // 32
    assert pw.update_dirty_limit(2_000, 1_000, 2_500) == 2_000
    assert pw.hard_dirty_limit(1_000, 1_969) == 1_969


@given(
    nr_dirtied=st.integers(1, 5_000),
    ago=st.integers(0, 5_000),
    dirty=st.integers(150_000, 215_000),
    share=st.integers(0, 100),
    bandwidth=st.integers(1, 1_000_000),
    ratelimit=st.integers(1, 1_000_000),
    hz=st.sampled_from((100, 250, 1000)),
)
def test_a_pause_is_never_longer_than_200_ms_and_always_worth_it(
    nr_dirtied: int, ago: int, dirty: int, share: int, bandwidth: int, ratelimit: int, hz: int
) -> None:
    thresh, background = 209_664, 104_704
    dtc = pw.Throttle(
        dirty, thresh, background, thresh, dirty * share // 100, thresh * share // 100
    )
    task = pw.Dirtier(nr_dirtied, 32, 10_000 - ago)
    pause, rate = pw.dirty_pause(task, dtc, bandwidth, ratelimit, 10_000, hz)
    assert 0 <= pause <= max(hz // 5, 1)
    assert rate >= 0
    if pause:
        assert task.nr_dirtied == 0
        assert task.paused_when >= 10_000 + pause
    else:
        assert rate > 0
