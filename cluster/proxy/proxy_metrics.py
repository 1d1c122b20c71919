"""A proxy's figures, for Prometheus and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_CHOICE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
_BEGIN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class ProxyStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one proxy is."""

    clients: int
    """Connections of clients."""
    requests: int
    """That are being answered."""
    pod_connections: int
    body_bytes: int
    """Of bodies that are held."""
    counts: dict[str, int] = {}
    """What has happened, and what bounds have cost (docs/proxy.md)."""
    answers: dict[int, int] = {}
    """By status: of pods and the proxy's own."""


class ProxyMetrics:
    """Histograms of one proxy, and its statistics when they are scraped."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._choice_s = Histogram(
            "kvatlas_proxy_choice_seconds",
            "From a request's end to the choice of its worker, tokenizing included.",
            buckets=_CHOICE_S,
            registry=self._registry,
        )
        self._begin_s = Histogram(
            "kvatlas_proxy_first_part_seconds",
            "From a request's end to the first part of its stream.",
            buckets=_BEGIN_S,
            registry=self._registry,
        )

    def chose(self, seconds: float) -> None:
        self._choice_s.observe(seconds)

    def began(self, seconds: float) -> None:
        self._begin_s.observe(seconds)

    def include(self, statistics: Callable[[], ProxyStatistics]) -> None:
        self._registry.register(_StatisticsCollector(statistics))

    def text(self) -> bytes:
        """For a scrape."""
        return generate_latest(self._registry)


class _StatisticsCollector(Collector):
    def __init__(self, statistics: Callable[[], ProxyStatistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        now = self._statistics()
        for name, says in (
            ("clients", "Connections of clients."),
            ("requests", "Requests that are being answered."),
            ("pod_connections", "Connections to pods."),
            ("body_bytes", "Bytes of bodies that are held."),
        ):
            yield GaugeMetricFamily(f"kvatlas_proxy_{name}", says, value=getattr(now, name))
        yield _family("kvatlas_proxy_events", "What has happened.", "kind", now.counts)
        yield _family("kvatlas_proxy_answers", "Answers by status.", "status", Counter(now.answers))


def _family(name: str, says: str, label: str, values: dict[str, int] | Counter[int]) -> Metric:
    family = CounterMetricFamily(name, says, labels=(label,))
    for value, n in values.items():
        family.add_metric((str(value),), n)
    return family
