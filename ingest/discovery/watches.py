"""A watch for each kind of configuration."""

from __future__ import annotations

from collections.abc import Callable

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.discovery.config import (
    FileWatchConfig,
    HttpWatchConfig,
    StaticWatchConfig,
    WatchConfig,
)
from kvatlas.ingest.discovery.pods import PodWatch
from kvatlas.ingest.discovery.registration.registry import PodRegistry
from kvatlas.ingest.discovery.registration.server import RegistrationServer
from kvatlas.ingest.discovery.static_list import StaticList
from kvatlas.ingest.discovery.watched_file import WatchedFile


def make_watch(config: WatchConfig, registry: PodRegistry, clock_s: Callable[[], float]) -> PodWatch:
    """Raises ConfigError for what is not there, such as the `kubernetes` extra."""
    if isinstance(config, StaticWatchConfig):
        return StaticList(config)
    if isinstance(config, FileWatchConfig):
        return WatchedFile(config, clock_s)
    if isinstance(config, HttpWatchConfig):
        return RegistrationServer(config, registry)
    try:
        from kvatlas.ingest.discovery.kube.watch import KubernetesWatch
    except ImportError as error:
        raise ConfigError(
            f"{config.name}: expected the package kubernetes (pip install 'kvatlas[kubernetes]'), {error}"
        ) from None
    return KubernetesWatch(config, clock_s)
