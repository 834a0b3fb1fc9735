"""One lane, or some: how long its jobs wait and run, how well its batches are filled."""

from panels import Page, Panel, Query, Section, quantiles

_OF = '{lane=~"$lane"}'


def _rate(metric: str, by: str = "lane", more: str = "") -> str:
    return f'sum by ({by}) (rate({metric}{{lane=~"$lane"{more}}}[$__rate_interval]))'


def _mean(histogram: str, by: str) -> str:
    return f"{_rate(f'{histogram}_sum', by)} / ({_rate(f'{histogram}_count', by)} > 0)"


def _most(metric: str, by: str = "lane") -> str:
    return f"max by ({by}) ({metric}{_OF})"


LATENCY = Section(
    "Latency",
    (
        Panel(
            "Inference latency over time",
            "s",
            quantiles("inference_duration_seconds", "lane", _OF),
            "A batch on the device.",
        ),
        Panel(
            "Queue wait",
            "s",
            quantiles("lanefleet_worker_queue_wait_seconds", "lane", _OF),
            "From a job's acceptance until a worker reserves it.",
        ),
        Panel(
            "Oldest job",
            "s",
            (
                Query(_most("lanefleet_lane_oldest_age_seconds"), "{{lane}}"),
                Query(_most("lanefleet:objective_oldest_age_seconds"), "{{lane}} at most"),
            ),
        ),
        Panel(
            "Time in each stage",
            "s",
            (
                Query(
                    f"{_rate('lanefleet_worker_stage_seconds_sum', 'lane, stage')} / "
                    f"({_rate('lanefleet_worker_stage_seconds_count', 'lane, stage')} > 0)",
                    "{{lane}} {{stage}}",
                ),
            ),
            "docs/stages.md says what each is.",
        ),
        Panel(
            "Inference latency by version",
            "s",
            (
                Query(
                    f"{_rate('inference_duration_seconds_sum', 'lane, model_version')} / "
                    f"({_rate('inference_duration_seconds_count', 'lane, model_version')} > 0)",
                    "{{lane}} {{model_version}}",
                ),
            ),
            "The mean, to compare two versions.",
        ),
        Panel(
            "Predictions",
            "ops",
            (
                Query(
                    _rate("predictions_total", "lane, model_version, status"),
                    "{{lane}} {{model_version}} {{status}}",
                ),
            ),
        ),
    ),
)

VERSIONS = Section(
    "Versions",
    (
        Panel(
            "Share by version",
            "percentunit",
            (
                Query(
                    f"{_rate('predictions_total', 'lane, model_version')} / "
                    "ignoring (model_version) group_left () "
                    f"({_rate('predictions_total')} > 0)",
                    "{{lane}} {{model_version}}",
                ),
            ),
            "Of the jobs with a result.",
            most=1,
        ),
        Panel(
            "First score by version",
            "percentunit",
            (
                Query(
                    _mean("lanefleet_worker_confidence_ratio", "lane, model_version"),
                    "{{lane}} {{model_version}}",
                ),
            ),
            "The mean, of classifiers.",
            most=1,
        ),
        Panel(
            "Agreement with the shadow",
            "percentunit",
            (
                Query(
                    _mean("lanefleet_worker_shadow_agreement_ratio", "lane, shadow"),
                    "{{lane}} {{shadow}}",
                ),
            ),
            "The mean: equal first labels, shared boxes, or a cosine.",
            most=1,
        ),
        Panel(
            "Shadow jobs",
            "ops",
            (
                Query(
                    _rate("lanefleet_worker_shadow_jobs_total", "lane, shadow, outcome"),
                    "{{lane}} {{shadow}} {{outcome}}",
                ),
            ),
        ),
    ),
)

QUEUE = Section(
    "Queue",
    (
        Panel(
            "Waiting by band",
            "short",
            (Query(_most("lanefleet_lane_waiting", "lane, band"), "{{lane}} {{band}}"),),
            kind="areas",
        ),
        Panel(
            "Beside, leased, delayed",
            "short",
            (
                Query(_most("lanefleet_lane_beside"), "{{lane}} beside"),
                Query(_most("lanefleet_lane_leased"), "{{lane}} leased"),
                Query(_most("lanefleet_lane_delayed"), "{{lane}} delayed"),
            ),
        ),
        Panel("Demand", "short", (Query(_most("lanefleet_lane_demand"), "{{lane}}"),)),
        Panel(
            "Seconds to drain",
            "s",
            (Query(_most("lanefleet_lane_drain_seconds"), "{{lane}}"),),
        ),
        Panel(
            "Drain rate",
            "ops",
            (Query(_most("lanefleet_lane_drain_jobs_per_second"), "{{lane}}"),),
        ),
        Panel("Workers", "short", (Query(_most("lanefleet_lane_workers"), "{{lane}}"),)),
    ),
)

BATCHES = Section(
    "Batches",
    (
        Panel(
            "Jobs in a batch",
            "short",
            (
                Query(
                    f"{_rate('lanefleet_worker_batch_jobs_total')} / "
                    f"({_rate('inference_duration_seconds_count')} > 0)",
                    "{{lane}}",
                ),
            ),
            "The mean.",
        ),
        Panel(
            "Batch fill",
            "percentunit",
            (
                Query(
                    f"{_rate('lanefleet_worker_batch_jobs_total')} / "
                    f"({_rate('lanefleet_worker_batch_room_total')} > 0)",
                    "{{lane}}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Padding",
            "percentunit",
            (
                Query(
                    "1 - "
                    + _rate("lanefleet_worker_cost_total", more=',kind="own"')
                    + " / ("
                    + _rate("lanefleet_worker_cost_total", more=',kind="padded"')
                    + " > 0)",
                    "{{lane}}",
                ),
            ),
            "The share of what ran that only makes a batch's items equally long.",
            most=1,
        ),
    ),
)

ENDINGS = Section(
    "Endings",
    (
        Panel(
            "Jobs by outcome",
            "ops",
            (
                Query(
                    "max by (lane, outcome) "
                    f"(rate(lanefleet_lane_jobs_total{_OF}[$__rate_interval]))",
                    "{{lane}} {{outcome}}",
                ),
            ),
            kind="areas",
        ),
        Panel("Dead letters", "short", (Query(_most("lanefleet_lane_dead"), "{{lane}}"),)),
        Panel(
            "Breaker",
            "short",
            (Query(_most("lanefleet_lane_breaker_open"), "{{lane}}"),),
            "1: its jobs are refused, because its model fails.",
            most=1,
        ),
    ),
)

PAGE = Page(
    "lane",
    "Lanefleet: lane",
    "How long the jobs of a lane wait and run.",
    (LATENCY, VERSIONS, QUEUE, BATCHES, ENDINGS),
    lanes=True,
)
