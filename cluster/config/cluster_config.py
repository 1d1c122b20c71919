"""The configuration of a cluster: one frozen tree. docs/configuration.md is made from it."""

from __future__ import annotations

import msgspec

from kvatlas.cluster.config.actors_config import (
    DirectoryConfig,
    ReadingConfig,
    ScorersConfig,
    ShardsConfig,
    SubscribersConfig,
    TokenizersConfig,
)
from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.config.ranges import Lifetime, Name, Transport, check_fields
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.tokenize.config import TokenizeConfig


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be said of a cluster beforehand. Raises ConfigError with the value's path.

    `load_config` (loading.py) reads it from a file, the environment and keywords.
    """

    name: Name = "default"
    """Clusters of different names share one Ray and do not see each other."""
    lifetime: Lifetime = "detached"
    """`detached`: it lives until `down`. `owned`: it ends with the process that started it."""
    transport: Transport = "zmq"
    """How deltas and fetches travel between actors: `zmq` over sockets of their own, encrypted;
    `ray` in Ray calls, for networks that allow nothing else."""
    shards: ShardsConfig = ShardsConfig()
    subscribers: SubscribersConfig = SubscribersConfig()
    scorers: ScorersConfig = ScorersConfig()
    tokenizers: TokenizersConfig = TokenizersConfig()
    gateway: GatewayConfig = GatewayConfig()
    proxy: ProxyConfig = ProxyConfig()
    directory: DirectoryConfig = DirectoryConfig()
    reading: ReadingConfig = ReadingConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    """Where pods come from; more can be added by `kvatlas pods add`."""
    atlas: AtlasConfig = AtlasConfig()
    """Models, pods, tiers, and the limits of streams and mirrors, as of an embedded atlas."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """Where tokenizers come from, for the pool or for clients. Files are looked for on the node of whoever
    tokenizes."""

    choosing: ChoosingConfig = ChoosingConfig()
    """How `choose` weighs caches and loads; for all who choose in the cluster."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("lane_rest_s", "leave_s"):
            value, least = getattr(self.directory, name), self.reading.view_s_max
            if value <= least:
                raise ConfigError(
                    f"directory.{name}: expected more than reading.view_s_max ({least!r}), got {value!r}"
                )
        for name, elsewhere in ELSEWHERE.items():
            value, default = getattr(self.atlas, name), getattr(_PLAIN, name)
            if value != default:
                raise ConfigError(f"atlas.{name}: expected {default!r} here ({elsewhere}), got {value!r}")

    def __repr__(self) -> str:
        """Without secrets."""
        return f"ClusterConfig(name={self.name!r}, shards={self.shards.count}, ...)"


_PLAIN = AtlasConfig()
ELSEWHERE = {
    "index": "a cluster's index is its shards",
    "shards": "the number of shards is shards.count",
    "table_bytes_max": "a shard's budget is shards.table_bytes_max",
    "default_pod": "a source names its pod in discovery",
    "default_model": "a source names its model in discovery",
}
"""Fields of an embedded atlas that a cluster has elsewhere."""
