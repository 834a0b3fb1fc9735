"""The fleet at a glance: what comes in, fails and waits, and what the machines do."""

from panels import Page, Panel, Query, Section, quantiles

_REQUESTS = "lanefleet_api_request_duration_seconds"


def _share(status: str) -> str:
    found = f'sum(rate({_REQUESTS}_count{{status=~"{status}"}}[$__rate_interval])) or vector(0)'
    return f"({found}) / sum(rate({_REQUESTS}_count[$__rate_interval]))"


def _ended(outcome: str) -> str:
    rate = f'rate(lanefleet_lane_jobs_total{{outcome=~"{outcome}"}}[$__rate_interval])'
    return f"max by (lane, outcome) ({rate})"


NOW = Section(
    "Now",
    (
        Panel("Jobs per second", "ops", (Query(f"sum({_ended('.*')})"),), kind="number"),
        Panel(
            "Demand",
            "short",
            (Query("sum(max by (lane) (lanefleet_lane_demand))"),),
            "Jobs that workers are needed for.",
            kind="number",
        ),
        Panel(
            "Workers",
            "short",
            (Query('count(up{job="lanefleet-worker"} == 1) or vector(0)'),),
            kind="number",
        ),
        Panel("Failed requests", "percentunit", (Query(_share("5..")),), kind="number"),
        Panel(
            "Oldest job",
            "s",
            (Query("max(lanefleet_lane_oldest_age_seconds)"),),
            kind="number",
        ),
        Panel(
            "Dead letters",
            "short",
            (Query("sum(max by (lane) (lanefleet_lane_dead))"),),
            kind="number",
        ),
    ),
)

REQUESTS = Section(
    "Requests",
    (
        Panel(
            "Request rate by endpoint",
            "reqps",
            (
                Query(
                    f"sum by (method, route) (rate({_REQUESTS}_count[$__rate_interval]))",
                    "{{method}} {{route}}",
                ),
            ),
            kind="areas",
        ),
        Panel(
            "Request latency",
            "s",
            quantiles(_REQUESTS),
            "Less what a client asked to wait for.",
        ),
        Panel(
            "Error-rate trends",
            "percentunit",
            (
                Query(_share("5.."), "requests: 5xx"),
                Query(_share("4.."), "requests: 4xx"),
                Query(f"sum({_ended('failed|dead')}) / sum({_ended('.*')})", "jobs"),
            ),
            most=1,
        ),
        Panel(
            "Refused jobs by reason",
            "ops",
            (
                Query(
                    "sum by (reason) (rate(lanefleet_api_refused_total[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            "docs/overload.md has the reasons.",
        ),
        Panel(
            "Requests under way",
            "short",
            (Query("sum by (instance) (lanefleet_api_active_requests)", "{{instance}}"),),
        ),
        Panel(
            "Jobs on arrival",
            "ops",
            (
                Query(
                    "sum by (outcome) (rate(lanefleet_api_jobs_total[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            "`hit`: from the cache; `replayed`: its Idempotency-Key was known.",
            kind="areas",
        ),
    ),
)

LANES = Section(
    "Lanes",
    (
        Panel(
            "Demand by lane",
            "short",
            (Query("max by (lane) (lanefleet_lane_demand)", "{{lane}}"),),
            kind="areas",
        ),
        Panel(
            "Jobs by lane",
            "ops",
            (Query(f"sum by (lane) ({_ended('.*')})", "{{lane}}"),),
            kind="areas",
        ),
        Panel(
            "Oldest job by lane",
            "s",
            (
                Query("max by (lane) (lanefleet_lane_oldest_age_seconds)", "{{lane}}"),
                Query("max by (lane) (lanefleet:objective_oldest_age_seconds)", "{{lane}} at most"),
            ),
        ),
        Panel(
            "Workers by lane",
            "short",
            (Query("max by (lane) (lanefleet_lane_workers)", "{{lane}}"),),
        ),
        Panel(
            "Cache lookups",
            "ops",
            (
                Query(
                    "sum by (outcome) (rate(lanefleet_cache_looks_total[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
        ),
        Panel(
            "Redis memory",
            "bytes",
            (
                Query("max(lanefleet_api_redis_used_bytes)", "used"),
                Query("max(lanefleet_api_redis_max_bytes) > 0", "at most"),
            ),
        ),
    ),
)

MACHINES = Section(
    "Machines",
    (
        Panel(
            "CPU per core",
            "percentunit",
            (
                Query(
                    "1 - avg by (instance, cpu) "
                    '(rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))',
                    "{{instance}} {{cpu}}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Network bytes",
            "Bps",
            (
                Query(
                    "sum by (instance) (rate(node_network_receive_bytes_total[$__rate_interval]))",
                    "{{instance}} in",
                ),
                Query(
                    "sum by (instance) (rate(node_network_transmit_bytes_total[$__rate_interval]))",
                    "{{instance}} out",
                ),
            ),
        ),
        Panel(
            "Memory in use",
            "percentunit",
            (
                Query(
                    "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
                    "{{instance}}",
                ),
            ),
            most=1,
        ),
    ),
)

PAGE = Page(
    "overview",
    "Lanefleet: overview",
    "Requests, lanes and machines of the whole fleet.",
    (NOW, REQUESTS, LANES, MACHINES),
)
