"""How a Serve replica tells routers of its model server, and how routers read it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec
import ray

from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.entries import rank_sources
from kvatlas.ingest.discovery.pods import DiscoveredPod, check_pod
from kvatlas.ingest.sockets.source_config import SourceConfig

KEY = "kvatlas"
"""Of the advertisement, in what a replica records."""
RAY_KEY = "kv_event_metadata"
"""Of what Ray's own Serve LLM replicas record."""
_WILDCARDS = ("tcp://*:", "tcp://0.0.0.0:", "tcp://[::]:")


class Advertisement(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says of its model server. Fields that a newer release has added are left out."""

    model: str = ""
    """Empty: that of the router's configuration."""
    endpoint: str | None = None
    """Where rank 0 publishes its events: tcp://HOST:PORT."""
    replay_endpoint: str | None = None
    ranks: int = 1
    """Data-parallel ranks; rank r has both ports raised by r."""
    sources: tuple[SourceConfig, ...] = ()
    """In full, in place of `endpoint`."""
    block_size_tokens: int | None = None
    settings: PodConfig = PodConfig()
    labels: dict[str, str] = {}
    serving: Serving = Serving()

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.sources:
            raise ConfigError("advertisement: expected one of endpoint and sources, got both")

    def pod(self, pod: str, *, node: str | None, model: str, labels: Mapping[str, str]) -> DiscoveredPod:
        """The pod that it tells of. Raises ConfigError or InputError where nobody could follow it."""
        settings = msgspec.structs.replace(self.settings, model=self.model or self.settings.model or model)
        sources = tuple(
            msgspec.structs.replace(source, pod=pod, model=settings.model, overrides_topic=not source.bind)
            for source in self.sources
        )
        if self.endpoint is not None:
            sources = rank_sources(pod, self.endpoint, self.replay_endpoint, self.ranks, settings.model)
        ranks = self.serving.ranks if self.serving.ranks > 1 else max(self.ranks, len(sources), 1)
        found = DiscoveredPod(
            pod=pod,
            sources=sources,
            block_size_tokens=self.block_size_tokens,
            settings=settings,
            node=node,
            labels={**self.labels, **labels},
            serving=msgspec.structs.replace(self.serving, ranks=ranks),
            found_by="serve",
        )
        if sources:
            check_pod(found)
        return found


class KvatlasReplica:
    """For deployments of one's own: call `advertise` as soon as the engine publishes events.

    Routers learn of it when the replica is ready; what is advertised later, with the next
    `request_routing_stats_period_s`. What other bases record is kept.
    """

    _kvatlas_advertised: Advertisement | None = None

    def advertise(self, advertisement: Advertisement) -> None:
        """`tcp://*:PORT` becomes the address of this node. Raises ConfigError for what cannot be followed."""
        told = msgspec.structs.replace(
            advertisement,
            endpoint=_reachable(advertisement.endpoint),
            replay_endpoint=_reachable(advertisement.replay_endpoint),
            sources=tuple(_reachable_source(source) for source in advertisement.sources),
        )
        told.pod("of this replica", node=None, model="of its deployment", labels={})
        self._kvatlas_advertised = told

    async def record_routing_stats(self) -> dict[str, Any]:
        """What Serve asks for from time to time."""
        return {**await self._kvatlas_of_others("record_routing_stats"), **self._kvatlas_record()}

    async def record_replica_metadata(self) -> dict[str, Any]:
        """What Serve asks for once, when the replica is ready."""
        return {**await self._kvatlas_of_others("record_replica_metadata"), **self._kvatlas_record()}

    def _kvatlas_record(self) -> dict[str, Any]:
        told = self._kvatlas_advertised
        return {} if told is None else {KEY: msgspec.to_builtins(told)}

    async def _kvatlas_of_others(self, name: str) -> dict[str, Any]:
        others = getattr(super(), name, None)
        if others is None:
            return {}
        recorded = others()
        return dict(await recorded if inspect.isawaitable(recorded) else recorded)


def read_advertisement(routing_stats: Mapping[str, Any], metadata: Mapping[str, Any]) -> Advertisement | None:
    """What a replica's records say; None: nothing. The newer, `routing_stats`, come first.

    Raises ConfigError or InputError where it cannot be read.
    """
    for record in (routing_stats, metadata):
        if record.get(KEY) is not None:
            try:
                return msgspec.convert(record[KEY], Advertisement)
            except msgspec.ValidationError as error:
                raise ConfigError(f"{KEY}: {error}") from error
        if record.get(RAY_KEY) is not None:
            return _of_ray(record[RAY_KEY])
    return None


def _of_ray(told: object) -> Advertisement:
    """Serve LLM's replicas are one data-parallel rank each, with ports of their own."""
    if not isinstance(told, Mapping) or not isinstance(told.get("endpoint"), str):
        raise ConfigError(f"{RAY_KEY}: expected an endpoint, got {told!r:.200}")
    rank = told.get("dp_rank")
    try:
        return msgspec.convert(
            {
                "sources": (
                    {
                        "endpoint": told["endpoint"],
                        "replay_endpoint": told.get("replay_endpoint"),
                        "rank": rank or None,
                    },
                ),
                "block_size_tokens": told.get("block_size"),
                "serving": {"batch_tokens_max": told.get("max_num_batched_tokens"), "ranks": 1},
            },
            Advertisement,
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"{RAY_KEY}: {error}") from error


def _reachable(endpoint: str | None) -> str | None:
    """An endpoint that listens at every address is reached at the node's."""
    for wildcard in _WILDCARDS:
        if endpoint is not None and endpoint.startswith(wildcard):
            address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            host = f"[{address}]" if ":" in address else address
            return f"tcp://{host}:{endpoint[len(wildcard) :]}"
    return endpoint


def _reachable_source(source: SourceConfig) -> SourceConfig:
    if source.bind:
        return source
    return msgspec.structs.replace(
        source,
        endpoint=_reachable(source.endpoint),
        replay_endpoint=_reachable(source.replay_endpoint),
    )
