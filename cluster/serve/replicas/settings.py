"""What a router of replicas is configured with: `request_router_kwargs`, in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.cluster.serve.replicas.extracting import ArgumentNames
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.tokenize.config import TokenizeConfig


class ReplicaRouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `KvatlasReplicaRouter`. Raises ConfigError for values out of range, with their names."""

    # Behaviour.
    cluster: str = ""
    """Name of a kvatlas cluster that runs on this Ray: one index and one account of loads for all routers,
    configured there. Empty: each process that routes has an index of its own."""
    model: str = ""
    """Of requests and replicas that do not name one. Empty: the one that replicas advertise, else the
    deployment's name."""
    extractor: str = ""
    """`package.module:function` of one's own that finds the prompt in a call's arguments; else `names` do."""
    names: ArgumentNames = ArgumentNames()
    """Of arguments and of fields of a body."""

    # Without `cluster`.
    choosing: ChoosingConfig = ChoosingConfig()
    atlas: AtlasConfig = AtlasConfig()
    tokenize: TokenizeConfig | None = None
    """How texts and chats become token ids. None: only token ids can be scored."""
    subscriber: SubscriberConfig = SubscriberConfig()

    # Time and bounds.
    rank_s_max: float = 2.0
    """For texts to be tokenized and other nodes to be asked; then the request goes to the least loaded."""
    unrouted_s: float = 30.0
    """A request for which a replica was picked, and that Serve has not said to run there, no longer counts
    as its load after so long."""
    flights_max: int = 65_536
    """Requests of one router at one time; beyond, the oldest are no longer accounted for."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {value!r}")


_RANGES = (("rank_s_max", 0.001, 600), ("unrouted_s", 0.1, 86_400), ("flights_max", 1, 1 << 22))


def read_settings(given: Mapping[str, Any]) -> ReplicaRouterConfig:
    """From `request_router_kwargs`. Raises ConfigError with the path of what does not fit."""
    try:
        return msgspec.convert(dict(given), ReplicaRouterConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"request_router_kwargs: {error}") from error
