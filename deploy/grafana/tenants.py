"""Who uses the fleet, and what it costs."""

from panels import Page, Panel, Query, Section


def _by_tenant(metric: str) -> tuple[Query, ...]:
    return (Query(f"sum by (tenant) (rate({metric}[$__rate_interval]))", "{{tenant}}"),)


USE = Section(
    "Use",
    (
        Panel(
            "Device time by tenant",
            "percentunit",
            _by_tenant("lanefleet_worker_tenant_device_seconds_total"),
            "In devices: 1 is one device, all the time. Those beyond the busiest are `other`.",
            kind="areas",
        ),
        Panel(
            "Jobs by tenant",
            "ops",
            _by_tenant("lanefleet_worker_tenant_items_total"),
            kind="areas",
        ),
        Panel(
            "Keys",
            "reqps",
            (
                Query(
                    "sum by (outcome) (rate(lanefleet_api_auth_total[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            "Requests by what became of their key.",
        ),
    ),
)

COST = Section(
    "Cost",
    (
        Panel(
            "Cost per hour by tenant",
            "short",
            (
                Query(
                    "sum by (tenant) (rate(lanefleet_worker_tenant_spend_total[$__rate_interval]))"
                    " * 3600",
                    "{{tenant}}",
                ),
            ),
            "In the currency of LANEFLEET_DEVICE_HOUR_PRICE.",
            kind="areas",
        ),
        Panel(
            "Cost per 1,000 inferences",
            "short",
            (Query("avg by (instance) (lanefleet_worker_inference_price) * 1000", "{{instance}}"),),
        ),
        Panel(
            "Price of an hour",
            "short",
            (Query("sum(lanefleet_worker_device_hour_price)", "all devices"),),
        ),
    ),
)

PAGE = Page("tenants", "Lanefleet: tenants", "Who uses the fleet, and its cost.", (USE, COST))
