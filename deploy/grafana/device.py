"""The devices and the worker processes that hold them."""

from panels import Page, Panel, Query, Section


def _each(metric: str) -> str:
    return f"max by (instance) ({metric})"


def _rate(metric: str) -> str:
    return f"sum by (instance) (rate({metric}[$__rate_interval]))"


DEVICES = Section(
    "Devices",
    (
        Panel(
            "GPU utilisation heat map",
            "percentunit",
            (
                Query(
                    "max by (instance, device) (lanefleet_worker_device_utilization_ratio)",
                    "{{instance}} {{device}}",
                ),
            ),
            "How many devices are how busy, as their driver measures it.",
            kind="heat",
        ),
        Panel(
            "Busy share",
            "percentunit",
            (Query(_each("lanefleet_worker_device_busy_ratio"), "{{instance}}"),),
            "Of the last ten seconds, as the worker measures it, on a CPU too.",
            most=1,
        ),
        Panel(
            "Device time by cause",
            "percentunit",
            (
                Query(
                    "sum by (state) (rate(lanefleet_worker_device_seconds_total[$__rate_interval]))"
                    " / scalar(sum(rate(lanefleet_worker_device_seconds_total[$__rate_interval])))",
                    "{{state}}",
                ),
            ),
            "What the devices did: busy, or idle for want of what the state says.",
            kind="areas",
            most=1,
        ),
        Panel(
            "Device memory",
            "percentunit",
            (
                Query(
                    "max by (instance, device) (lanefleet_worker_device_memory_used_bytes"
                    " / lanefleet_worker_device_memory_bytes)",
                    "{{instance}} {{device}}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Power",
            "watt",
            (
                Query(
                    "max by (instance, device) (lanefleet_worker_device_power_watts)",
                    "{{instance}} {{device}}",
                ),
            ),
        ),
        Panel(
            "Changes of lane",
            "ops",
            (Query(_rate("lanefleet_worker_lane_switches_total"), "{{instance}}"),),
        ),
    ),
)

WORKERS = Section(
    "Workers",
    (
        Panel(
            "Results published",
            "ops",
            (Query(_rate("lanefleet_worker_jobs_total"), "{{instance}}"),),
            kind="areas",
        ),
        Panel(
            "Jobs in hand",
            "short",
            (Query("sum by (instance) (lanefleet_worker_jobs_in_hand)", "{{instance}}"),),
        ),
        Panel(
            "Fenced, reaped, retried, dead",
            "ops",
            (
                Query("sum(rate(lanefleet_worker_fenced_total[$__rate_interval]))", "fenced"),
                Query("sum(rate(lanefleet_worker_reaped_total[$__rate_interval]))", "reaped"),
                Query("sum(rate(lanefleet_worker_retried_total[$__rate_interval]))", "retried"),
                Query("sum(rate(lanefleet_worker_dead_total[$__rate_interval]))", "dead"),
            ),
            "Fenced: the result of a lease that had lapsed. Reaped: leases of lost workers.",
        ),
        Panel(
            "Reserved and renewed",
            "ops",
            (
                Query("sum(rate(lanefleet_worker_reserved_total[$__rate_interval]))", "reserved"),
                Query("sum(rate(lanefleet_worker_renewed_total[$__rate_interval]))", "renewed"),
            ),
        ),
        Panel(
            "Memory of the process",
            "bytes",
            (Query(_each("lanefleet_worker_rss_bytes"), "{{instance}}"),),
        ),
        Panel(
            "Pauses of the garbage collector",
            "s",
            (Query(_rate("lanefleet_worker_gc_pause_seconds_sum"), "{{instance}}"),),
            "Those over 5 ms, per second.",
        ),
        Panel(
            "Silence of Redis",
            "s",
            (Query(_each("lanefleet_worker_redis_silence_seconds"), "{{instance}}"),),
        ),
        Panel(
            "Cold start",
            "s",
            (Query(_each("lanefleet_worker_cold_start_seconds"), "{{instance}}"),),
            "From the start of the process to its first result.",
        ),
        Panel(
            "Continuations",
            "short",
            (
                Query("max(lanefleet_worker_outbox_entries)", "to be sent"),
                Query("max(lanefleet_worker_outbox_failed_entries)", "set aside"),
            ),
        ),
    ),
)

PAGE = Page(
    "device",
    "Lanefleet: device",
    "What the devices do, and the processes that hold them.",
    (DEVICES, WORKERS),
)
