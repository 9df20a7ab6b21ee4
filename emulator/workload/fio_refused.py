"""The options of fio 3.33 that are refused, and why: an answer without them would look like one."""

from __future__ import annotations

#: Why, and which options.
REASONS: dict[str, tuple[str, ...]] = {
    "blocks are multiples of the smallest, and begin at one; bs, bsrange and bssplit say their sizes": (
        *("bs_unaligned", "blocksize_unaligned"),
        *("bs_is_seq_rand", "ba", "blockalign", "offset_align"),
    ),
    "all blocks are equally likely, or come in order": (
        *("percentage_random", "rw_sequencer", "zonemode", "zonerange", "zonesize", "zoneskip"),
        *("zonecapacity", "zone_reset_frequency", "zone_reset_threshold", "max_open_zones"),
        *("job_max_open_zones", "read_beyond_wp", "ignore_zone_limits"),
    ),
    "trims are not emulated": (
        *("trim_backlog", "trim_backlog_batch", "trim_percentage", "trim_verify_zero"),
    ),
    "a job has all its files open, by names of its own or by filename": (
        *("openfiles", "opendir", "filename_format", "unique_filename", "file_append", "lockfile"),
        *("fill_device", "fill_fs", "unlink_each_loop", "allow_file_create", "create_only"),
        *("allow_mounted_write", "pre_read", "fadvise_hint"),
    ),
    "this kind of sync is not emulated: fsync, fdatasync, end_fsync and sync are": (
        *("fsync_on_close", "sync_file_range", "write_barrier", "atomic"),
    ),
    "IO starts in the order of its job and by its submitter": (
        *("io_submit_mode", "serialize_overlap", "experimental_verify", "flow", "flow_id"),
        *("flow_sleep", "flow_watermark"),
    ),
    "rates are kept from the start of the job, and nothing below them ends it": (
        *("rate_min", "ratemin", "rate_iops_min", "rate_cycle", "ratecycle"),
        *("rate_ignore_thinktime", "latency_target", "latency_window", "latency_percentile"),
        *("latency_run", "max_latency"),
    ),
    "a job ends by its size, its time or its first error": (
        *("exitall", "exit_what", "exitall_on_error", "continue_on_error", "ignore_error"),
        *("error_dump", "steadystate", "ss", "steadystate_duration", "ss_dur"),
        *("steadystate_ramp_time", "ss_ramp"),
    ),
    "a pass is verified as a whole, by one checksum per block": (
        *("verify_async", "verify_async_cpus", "verify_backlog", "verify_backlog_batch"),
        *("verify_dump", "verify_interval", "verify_offset", "verify_only", "verify_pattern"),
        *("verify_state_load", "verify_state_save"),
    ),
    "what it costs in CPU time is not known": (
        *("refill_buffers", "dedupe_percentage", "dedupe_global", "dedupe_mode"),
        *("dedupe_working_set_percentage", "buffer_compress_percentage", "buffer_compress_chunk"),
        *("gtod_reduce", "gtod_cpu", "disable_lat", "disable_clat", "disable_slat"),
        *("disable_bw_measurement", "lockmem", "hugepage-size"),
    ),
    "of fio's logs there are those of bandwidth, latency and IOPS, every value or an average": (
        *("write_hist_log", "write_iolog"),
        *("log_hist_msec", "log_hist_coarseness", "log_max_value", "log_offset"),
        *("log_entries", "log_prio", "log_compression", "log_compression_cpus"),
        *("log_store_compressed", "log_unix_epoch", "log_alternate_epoch", "per_job_logs"),
        *("log_alternate_epoch_clock_id", "bwavgtime", "iopsavgtime"),
    ),
    "recorded IO cannot be replayed": (
        *("read_iolog", "read_iolog_chunked", "replay_align", "replay_no_stall", "replay_redirect"),
        *("replay_scale", "replay_skip", "replay_time_scale", "merge_blktrace_file"),
        *("merge_blktrace_iters", "merge_blktrace_scalars"),
    ),
    "the report has fio's default form": (
        *("unified_rw_reporting", "lat_percentiles", "slat_percentiles", "stats", "kb_base"),
        *("significant_figures", "unit_base", "block_error_percentiles"),
    ),
    "the box says it": (
        *("ioscheduler", "numa_cpu_nodes", "numa_mem_policy", "cgroup", "cgroup_weight"),
        *("cgroup_nodelete", "uid", "gid", "exec_prerun", "exec_postrun", "profile", "write_hint"),
    ),
    "the engine's own variants are not emulated": (
        *(
            "userspace_reap",
            "hipri_percentage",
            "fixedbufs",
            "registerfiles",
            "sqthread_poll",
            "cmdprio",
        ),
        *("sqthread_poll_cpu", "nonvectored", "uncached", "nowait", "force_async", "cmd_type"),
        *("cmdprio_percentage", "cmdprio_class", "cmdprio_bssplit"),
    ),
}

#: By option, why.
REFUSED: dict[str, str] = {name: why for why, names in REASONS.items() for name in names}
