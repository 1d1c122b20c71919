"""The configuration of a cluster, as its actors are told it: they do not know this folder."""

from __future__ import annotations

import msgspec

from kvatlas.actors.directory.settings import ActorResources, Deadlines, DirectorySettings
from kvatlas.actors.orders import encode
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.scorer.settings import ScorerSettings
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.actors.subscriber.replica_feed import FeedLimits
from kvatlas.actors.subscriber.settings import OutboxSettings, SubscriberSettings
from kvatlas.actors.tokenizer.settings import TokenizerSettings
from kvatlas.cluster.config.actors_config import Resources
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.tokenize.pool.bounded_work import WorkLimits
from kvatlas.tokenize.pool.scaling import ScalingLimits

_VIEW_WAIT_SHARE = 3
"""A view that nobody confirms for three such waits is distrusted."""
_SPILL_PART = 16
"""With a sixteenth of its queue waiting, a tokenizer sends on who can go elsewhere."""


def directory_settings(config: ClusterConfig, cluster_id: str) -> DirectorySettings:
    """`cluster_id`: another one for each start."""
    shards, subscribers, scorers, directory = (
        config.shards,
        config.subscribers,
        config.scorers,
        config.directory,
    )
    return DirectorySettings(
        cluster=config.name,
        cluster_id=cluster_id,
        owned=config.lifetime == "owned",
        config=encode(config),
        hash_seed=config.atlas.hash_seed,
        algorithm=config.atlas.algorithm,
        tier_weights=config.atlas.tier_weights,
        view_s_max=config.reading.view_s_max,
        n_shards=shards.count,
        replicas_per_node=shards.replicas_per_node,
        shard_nodes=shards.nodes,
        shard_placement=shards.placement,
        shard_resources=actor_resources(shards.resources),
        shard=encode(shard_settings(config)),
        pods_each=subscribers.pods_each,
        near_pods=subscribers.near_pods,
        lanes_leased=subscribers.lanes_leased,
        subscriber_resources=actor_resources(subscribers.resources),
        subscriber=encode(subscriber_settings(config)),
        n_scorers=scorers.count,
        scorer_threads=scorers.threads,
        scorer_nodes=scorers.nodes,
        scorer_placement=scorers.placement,
        scorer_resources=actor_resources(scorers.resources),
        scorer=encode(scorer_settings(config)),
        tokenizers=ScalingLimits(
            count_min=config.tokenizers.count_min,
            count_max=config.tokenizers.count_max,
            grow_s=config.tokenizers.grow_s,
            shrink_s=config.tokenizers.shrink_s,
        ),
        tokenizer_nodes=config.tokenizers.nodes,
        tokenizer_placement=config.tokenizers.placement,
        tokenizer_resources=actor_resources(config.tokenizers.resources),
        tokenizer=encode(tokenizer_settings(config)),
        choosing=encode(config.choosing),
        shares_loads=config.transport == "zmq",
        discovery=config.discovery,
        deadlines=Deadlines(
            session_lost_s=directory.session_lost_s,
            shard_silent_s=directory.shard_silent_s,
            swap_s_max=directory.swap_s_max,
            reshard_s_max=directory.reshard_s_max,
            leave_s=directory.leave_s,
            lane_rest_s=directory.lane_rest_s,
        ),
        views_per_s_max=directory.views_per_s_max,
    )


def shard_settings(config: ClusterConfig) -> ShardSettings:
    return ShardSettings(
        table_bytes_max=config.shards.table_bytes_max,
        shared_memory_folder=config.shards.shared_memory_folder,
        transport=config.transport,
        heartbeat_s=config.shards.heartbeat_s,
        owned=config.lifetime == "owned",
    )


def subscriber_settings(config: ClusterConfig) -> SubscriberSettings:
    """The seed of the block keys is not among it: it comes with the orders."""
    return SubscriberSettings(
        atlas=msgspec.structs.replace(config.atlas, hash_seed=None),
        sockets=config.subscribers.sockets,
        checkpoint_folder=config.subscribers.checkpoint_folder,
        checkpoint_s=config.subscribers.checkpoint_s,
        outbox=OutboxSettings(feed=FeedLimits(gathered_bytes_max=config.subscribers.outbox_bytes_max)),
        settle_s=config.subscribers.settle_s,
        transport=config.transport,
        report_s=config.directory.report_s,
        lane_rest_s=config.directory.lane_rest_s,
        owned=config.lifetime == "owned",
    )


def scorer_settings(config: ClusterConfig) -> ScorerSettings:
    return ScorerSettings(
        threads=config.scorers.threads,
        reading=reader_settings(config),
        owned=config.lifetime == "owned",
    )


def tokenizer_settings(config: ClusterConfig) -> TokenizerSettings:
    """For the pool's actors and for clients alike."""
    pool = config.tokenizers
    return TokenizerSettings(
        tokenize=config.tokenize,
        work=WorkLimits(
            threads=pool.threads,
            waiting_max=pool.waiting_max,
            spill_max=max(1, pool.waiting_max // _SPILL_PART),
            waiting_bytes_max=pool.waiting_bytes_max,
            wait_s_max=pool.wait_s_max,
        ),
        reading=reader_settings(config),
        has_pool=pool.count_max > 0,
        call_s_max=pool.call_s_max,
        report_s=config.directory.report_s,
        owned=config.lifetime == "owned",
    )


def reader_settings(config: ClusterConfig) -> ReaderSettings:
    return ReaderSettings(
        fetch_s_max=config.reading.fetch_s_max,
        view_wait_s=min(3.0, config.reading.view_s_max / _VIEW_WAIT_SHARE),
    )


def actor_resources(resources: Resources) -> ActorResources:
    """What Ray sets aside for one actor."""
    return ActorResources(cpus=resources.cpus, memory_bytes=resources.memory_bytes, custom=resources.custom)
