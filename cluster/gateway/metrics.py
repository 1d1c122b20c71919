"""A gateway's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

Figures = Callable[[], Mapping[str, float]]


class GatewayMetrics:
    """Of one replica: each has a registry of its own."""

    def __init__(self, counts: Figures, choosing: Figures) -> None:
        """`counts` of the gateway itself, `choosing` of its chooser; both are asked at each scrape."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "kvatlas_gateway_requests",
            "Requests answered.",
            ("transport", "call", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "kvatlas_gateway_seconds",
            "From a request's head to its answer.",
            ("transport", "call"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Counts(counts, choosing))

    def answered(self, transport: str, call: str, status: str, seconds: float) -> None:
        self._requests.labels(transport, call, status).inc()
        self._seconds.labels(transport, call).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)


class _Counts(Collector):
    def __init__(self, counts: Figures, choosing: Figures) -> None:
        self._counts = counts
        self._choosing = choosing

    def describe(self) -> Iterable[Metric]:
        return ()  # or registering would ask for the figures

    def collect(self) -> Iterable[Metric]:
        refusals = CounterMetricFamily(
            "kvatlas_gateway_refusals", "Requests and bodies refused.", labels=("why",)
        )
        for name, count in sorted(self._counts().items()):
            refusals.add_metric((name,), count)
        yield refusals
        figures = GaugeMetricFamily(
            "kvatlas_choosing", "What the chooser of this process counts.", labels=("what",)
        )
        for name, value in sorted(self._choosing().items()):
            figures.add_metric((name,), value)
        yield figures


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested mappings, by their paths joined with dots; what is no number is left out."""
    numbers: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            numbers.update(flat(value, f"{prefix}{name}."))
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
