"""A board as the JSON that Grafana reads, by Grafana's own builders.

There is one data source variable, so that the same file works below any Prometheus: that of compose.yaml, a cluster's,
or one that a person has at home and imports the file into.
"""

from __future__ import annotations

from itertools import count

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.panels.board import Board, Choice, Panel, Query

TAG = "tunesmith"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHTS = {"stat": 4, "table": 8, "timeseries": 8, "heatmap": 8}

AnyPanel = timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel


def to_json(board: Board) -> str:
    """The same text every time, for whoever compares it with what is committed."""
    return JSONEncoder(indent=2, sort_keys=True).encode(render(board)) + "\n"


def render(board: Board) -> models.Dashboard:
    ids = count(1)
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .refresh("30s")
        .time(board.since, "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_siblings())
        .variables([_data_source(), *(_variable(choice) for choice in board.choices)])
        .annotation(_alerts())
    )
    for row in board.rows:
        made.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made.with_panel(_panel(panel).id(next(ids)))
    return made.build()


def _siblings() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Tunesmith").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).include_vars(True).keep_time(True)


def _data_source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(choice: Choice) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(choice.name).label(choice.label).datasource(SOURCE).query(choice.query)
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.multi(True).include_all(True).all_value(".*").current(_ALL)


_ALL = models.VariableOption(selected=True, text=["All"], value=["$__all"])


def _alerts() -> dashboard.AnnotationQuery:
    """Alerts that fire, as marks on every panel."""
    mark = dashboard.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color("red")
    return mark.expr('ALERTS{alertname=~"Tunesmith.*", alertstate="firing"}')


def _panel(panel: Panel) -> AnyPanel:
    made = _KINDS[panel.kind](panel)
    made.title(panel.title).description(panel.description).datasource(SOURCE).unit(panel.unit)
    made.span(panel.width).height(panel.height or HEIGHTS[panel.kind])
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(panel, query, letter))
    for setter, value in ((made.min, panel.lowest), (made.max, panel.highest), (made.decimals, panel.decimals)):
        if value is not None:
            setter(value)
    if panel.warn is not None or panel.bad is not None:
        made.thresholds(_thresholds(panel))
    return made


def _target(panel: Panel, query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    if panel.kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    if panel.kind == "heatmap":
        return target.range().format(PromQueryFormat.HEATMAP)
    return target.instant() if panel.kind == "stat" else target.range()


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    first, *others = ("red", "orange", "green") if panel.falling else ("green", "orange", "red")
    limits = (panel.bad, panel.warn) if panel.falling else (panel.warn, panel.bad)
    steps = [models.Threshold(value=None, color=first)]
    steps += [
        models.Threshold(value=limit, color=color)
        for limit, color in zip(limits, others, strict=True)
        if limit is not None
    ]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    legend = legend.display_mode(common.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    made = timeseries.Panel().legend(legend).tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    made.line_width(1).show_points(common.VisibilityMode.AUTO).fill_opacity(20 if panel.stacked else 5)
    if panel.stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.logarithmic:
        scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        made.scale_distribution(scale)
    if panel.warn is not None or panel.bad is not None:
        made.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return made


def _stat(panel: Panel) -> stat.Panel:
    reduce = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    graph, text = common.BigValueGraphMode.NONE, common.BigValueTextMode.VALUE_AND_NAME
    named = any(query.legend for query in panel.queries)
    return stat.Panel().reduce_options(reduce).graph_mode(graph).text_mode(text if named else text.VALUE)


def _table(panel: Panel) -> table.Panel:
    """Labels are columns; the time of asking is of no use."""
    options = {"excludeByName": {"Time": True}, "renameByName": {"Value": "since its last beat"}}
    tidy = models.DataTransformerConfig(id_val="organize", options=options)
    return table.Panel().filterable(True).with_transformation(tidy)


def _heatmap(panel: Panel) -> heatmap.Panel:
    """Counts by bucket: the buckets have the unit of what is measured, the cells count."""
    buckets = heatmap.YAxisConfig().unit("s").axis_placement(common.AxisPlacement.LEFT)
    return heatmap.Panel().calculate(False).y_axis(buckets)


_KINDS = {"timeseries": _timeseries, "stat": _stat, "table": _table, "heatmap": _heatmap}

#: Ids of units that Grafana knows; what begins with `suffix:` is written behind the number as it is.
UNITS = frozenset(value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_"))
