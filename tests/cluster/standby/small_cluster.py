"""A cluster whose block keys another one shares."""

from __future__ import annotations

from kvatlas.cluster.config.actors_config import ReadingConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig


def small_cluster(name: str, discovery: DiscoveryConfig) -> ClusterConfig:
    return ClusterConfig(
        name=name,
        discovery=discovery,
        shards=ShardsConfig(count=2, table_bytes_max=32 << 20),
        reading=ReadingConfig(view_s_max=4.0),
        atlas=AtlasConfig(hash_seed="both"),
    )
