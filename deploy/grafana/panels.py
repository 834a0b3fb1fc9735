"""What a panel says, and how Grafana's builders make one of it: all panels of a kind look alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
TAG = "lanefleet"

Kind = Literal["lines", "areas", "number", "heat"]
_WIDTHS: dict[Kind, int] = {"lines": 8, "areas": 8, "number": 4, "heat": 8}
_HEIGHTS: dict[Kind, int] = {"lines": 8, "areas": 8, "number": 4, "heat": 8}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: its name, its queries, the unit of its values in Grafana's words."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""
    kind: Kind = "lines"
    least: float | None = 0
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A row of panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard."""

    name: str
    title: str
    about: str
    sections: tuple[Section, ...]
    lanes: bool = False
    """Whether one chooses lanes; their variable is `$lane`."""


def quantiles(metric: str, by: str = "", where: str = "") -> tuple[Query, ...]:
    """The median, and what 5% and 1% exceed, of a histogram."""
    grouped = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({grouped}) (rate({metric}_bucket{where}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({share}, {rate})", f"{name}p{share * 100:g}")
        for share in (0.5, 0.95, 0.99)
    )


def dashboard_of(page: Page, others: Sequence[str]) -> Dashboard:
    """Build a page; the others are linked by their tag."""
    made = (
        Dashboard(page.title)
        .uid(f"lanefleet-{page.name}")
        .description(page.about)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(DatasourceVariable("source").label("Source").type("prometheus"))
    )
    if others:
        made.link(
            DashboardLink("Lanefleet")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
    if page.lanes:
        made.with_variable(_lane_variable())
    for section in page.sections:
        made.with_row(Row(section.title))
        for panel in section.panels:
            made.with_panel(_built(panel))
    return made


def _lane_variable() -> QueryVariable:
    return (
        QueryVariable("lane")
        .label("Lane")
        .datasource(SOURCE)
        .query("label_values(lanefleet_lane_demand, lane)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _built(panel: Panel) -> "timeseries.Panel | stat.Panel | heatmap.Panel":
    made = {"number": _number, "heat": _heat}.get(panel.kind, _lines)(panel)
    made.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    made.height(_HEIGHTS[panel.kind]).span(_WIDTHS[panel.kind])
    if panel.kind != "heat":
        if panel.least is not None:
            made.min(panel.least)
        if panel.most is not None:
            made.max(panel.most)
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        made.with_target(target.range().ref_id(chr(ord("A") + place)))
    return made


def _lines(panel: Panel) -> timeseries.Panel:
    legend = (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["lastNotNull"])
    )
    tooltip = common_builders.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    made = timeseries.Panel().legend(legend).tooltip(tooltip.sort(SortOrder.DESCENDING))
    made.line_width(1).fill_opacity(10).gradient_mode(GraphGradientMode.NONE)
    if panel.kind == "areas":
        made.fill_opacity(60)
        made.stacking(common_builders.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return made


def _number(_panel: Panel) -> stat.Panel:
    reduced = common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    return stat.Panel().reduce_options(reduced).graph_mode(BigValueGraphMode.AREA)


def _heat(panel: Panel) -> heatmap.Panel:
    return heatmap.Panel().calculate(True).y_axis(heatmap.YAxisConfig().unit(panel.unit))
