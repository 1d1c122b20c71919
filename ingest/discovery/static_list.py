"""Pods that are written down in the configuration."""

from __future__ import annotations

from kvatlas.ingest.discovery.config import StaticWatchConfig
from kvatlas.ingest.discovery.pods import PodSink, WatchStatistics


class StaticList:
    """A watch that says once what it knows."""

    def __init__(self, config: StaticWatchConfig) -> None:
        self._config = config

    @property
    def name(self) -> str:
        return self._config.name

    def start(self, sink: PodSink) -> None:
        sink.replace([entry.discovered(self.name) for entry in self._config.pods])

    def stop(self) -> None:
        pass

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(name=self.name, pods=len(self._config.pods))
