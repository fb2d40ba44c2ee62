"""Figures of a server in the format of OpenMetrics."""

from collections import Counter

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition

from ruchu import __version__
from ruchu.control.schedules import lateness
from ruchu.control.server.services import Services

MEDIA_TYPE = exposition.CONTENT_TYPE_LATEST


def text(services: Services) -> bytes:
    """Return the figures as text."""
    registry = CollectorRegistry()
    registry.register(_Collector(services))
    found: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    return found


class _Collector:
    """Reads the figures when they are asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> list[Metric]:
        """Return all figures."""
        services = self._services
        about = GaugeMetricFamily("ruchu_about", "Release of the server.", labels=["version"])
        about.add_metric([__version__], 1)
        return [about, *self._nodes(), *self._runs(), *self._storages(), *_scheduler(services)]

    def _nodes(self) -> list[Metric]:
        states = GaugeMetricFamily("ruchu_nodes", "Nodes by state.", labels=["state"])
        rows = self._services.nodes.all()
        for state, count in Counter(self._services.hub.state(row).value for row in rows).items():
            states.add_metric([state], count)
        return [states]

    def _runs(self) -> list[Metric]:
        family = GaugeMetricFamily("ruchu_runs_open", "Runs under way.", labels=["state", "kind"])
        rows = self._services.runs.open()
        for (state, kind), count in Counter((row.state, row.kind) for row in rows).items():
            family.add_metric([state, kind], count)
        alarms = GaugeMetricFamily("ruchu_alarms_open", "Open alarms.", labels=["severity"])
        severities = Counter(each.severity.value for each in self._services.alarms.open_alarms())
        for severity, count in severities.items():
            alarms.add_metric([severity], count)
        return [family, alarms]

    def _storages(self) -> list[Metric]:
        free = GaugeMetricFamily("ruchu_storage_free_bytes", "Free space.", labels=["storage"])
        size = GaugeMetricFamily("ruchu_storage_size_bytes", "Size.", labels=["storage"])
        for row in self._services.storages.all():
            if row.free is not None:
                free.add_metric([row.name], row.free)
            if row.size is not None:
                size.add_metric([row.name], row.size)
        newest = GaugeMetricFamily(
            "ruchu_object_newest_point", "Moment of the newest point, seconds since 1970.",
            labels=["platform", "name"],
        )  # fmt: skip
        for (platform, name), moment in self._services.catalogue.newest_moments().items():
            newest.add_metric([platform, name], moment)
        return [free, size, newest]


def _scheduler(services: Services) -> list[Metric]:
    figures = services.scheduler.lateness.figures()
    family = HistogramMetricFamily(
        "ruchu_scheduler_lateness_seconds", "How late runs were created after they were due."
    )
    bounds = [f"{bound:g}" for bound in lateness.BOUNDS_S]
    buckets = [*zip(bounds, map(float, figures.within), strict=True), ("+Inf", figures.count)]
    family.add_metric([], buckets, figures.total_s)
    return [family]
