"""What the server counts, in Prometheus' own library; one registry for each server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sparkle_http_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "sparkle_http_request_seconds",
            "Time from request to answer.",
            ("route",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.accepted = Counter("sparkle_rows_accepted", "Rows stored, by kind.", ("kind",), registry=self.registry)
        self.rejected = Counter(
            "sparkle_rows_rejected", "Rows dropped, by reason.", ("reason",), registry=self.registry
        )
        self.duplicates = Counter(
            "sparkle_duplicates",
            "Bodies, bans and rows that had been stored before.",
            ("what",),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "sparkle_commit_seconds",
            "Time to store one group of submissions, from decoding to the durable commit.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=self.registry,
        )
        self.jobs = Counter(
            "sparkle_job_runs", "Background jobs by name and outcome.", ("job", "outcome"), registry=self.registry
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when somebody looks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch_by(self, name: str, text: str, label: str, values: Callable[[], dict[str, float]]) -> None:
        """A gauge with one label whose values are read when somebody looks."""
        self.registry.register(_Watched(name, text, label, values))

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(self, name: str, text: str, label: str, values: Callable[[], dict[str, float]]) -> None:
        self._family = (name, text, label)
        self._values = values

    def collect(self) -> list[GaugeMetricFamily]:
        name, text, label = self._family
        family = GaugeMetricFamily(name, text, labels=[label])
        for key, value in self._values().items():
            family.add_metric([key], value)
        return [family]
