"""What the courier does: webhooks and batches."""

from panels import Page, Panel, Query, Section

_DELIVERIES = "lanefleet_courier_deliveries_total"
_SECONDS = "lanefleet_courier_delivery_seconds"

WEBHOOKS = Section(
    "Webhooks",
    (
        Panel(
            "Attempts by outcome",
            "ops",
            (
                Query(
                    f"sum by (outcome) (rate({_DELIVERIES}[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            kind="areas",
        ),
        Panel(
            "Duration of an attempt",
            "s",
            (
                Query(
                    f"sum(rate({_SECONDS}_sum[$__rate_interval]))"
                    f" / sum(rate({_SECONDS}_count[$__rate_interval]))",
                    "mean",
                ),
            ),
        ),
        Panel(
            "Webhooks that wait",
            "short",
            (Query("max(lanefleet_courier_waiting)", "to be delivered"),),
            "Those that are tried again later are among them.",
        ),
        Panel(
            "Oldest event",
            "s",
            (Query("max(lanefleet_courier_oldest_age_seconds)", "not taken up"),),
        ),
        Panel(
            "Couriers",
            "short",
            (Query('count(up{job="lanefleet-courier"} == 1) or vector(0)'),),
            kind="number",
        ),
    ),
)

BATCHES = Section(
    "Batches",
    (
        Panel(
            "Unfinished batches",
            "short",
            (Query("max by (status) (lanefleet_batch_unfinished)", "{{status}}"),),
            kind="areas",
        ),
        Panel(
            "Lines that wait, by tenant",
            "short",
            (Query("max by (tenant) (lanefleet_batch_lines_waiting)", "{{tenant}}"),),
            "Of unfinished batches, without a result.",
            kind="areas",
        ),
        Panel(
            "Lines done",
            "ops",
            (
                Query(
                    "sum by (outcome)"
                    " (rate(lanefleet_courier_batch_lines_total[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            kind="areas",
        ),
        Panel(
            "Standing still",
            "s",
            (Query("max(lanefleet_batch_still_seconds)", "longest"),),
            "How long an unfinished batch has not gone on.",
        ),
        Panel(
            "Batches that ended",
            "ops",
            (
                Query(
                    "sum by (status) (rate(lanefleet_courier_batches_total[$__rate_interval]))",
                    "{{status}}",
                ),
            ),
        ),
        Panel(
            "Waiting for the store",
            "short",
            (Query("max(lanefleet_batch_troubled)"),),
            kind="number",
        ),
    ),
)

PAGE = Page(
    "webhooks",
    "Lanefleet: webhooks and batches",
    "What couriers deliver and run.",
    (WEBHOOKS, BATCHES),
)
