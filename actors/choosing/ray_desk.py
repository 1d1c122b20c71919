"""Whom a router tells something, over Ray calls."""

from __future__ import annotations

from typing import Any

import ray

from kvatlas.actors.orders import NAMESPACE
from kvatlas.actors.reading.connection import DirectoryCalls


class RayDesk:
    """The directory and the subscribers of one cluster, wherever they are just now. One thread at a time."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._calls = DirectoryCalls(cluster)
        self._subscribers: dict[str, Any] = {}

    def report_router(self, report: bytes) -> bytes:
        """Raises ClusterError when the directory does not answer."""
        orders: bytes = self._calls.call("report_router", report)
        return orders

    def tell_reused(self, subscriber: str, report: bytes) -> None:
        """Waits for no answer. Raises ValueError where Ray knows no such actor."""
        handle = self._subscribers.get(subscriber)
        if handle is None:
            name = f"{self._cluster}/subscriber/{subscriber}"
            handle = self._subscribers[subscriber] = ray.get_actor(name, namespace=NAMESPACE)
        handle.reused.remote(report)
