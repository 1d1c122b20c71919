"""What a directory is told when it is made."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.tokenize.pool.scaling import ScalingLimits

Placement = Literal["spread", "pack"]


class ActorResources(msgspec.Struct, frozen=True, kw_only=True):
    """What Ray sets aside for one actor."""

    cpus: float = 0.0
    memory_bytes: float = 0.0
    custom: dict[str, float] = {}


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """When the directory acts. All in seconds."""

    session_lost_s: float = 3.0
    """Silence of a subscriber, after which its workers are DEGRADED, or of a shard, after which readers
    are not sent to it."""
    shard_silent_s: float = 10.0
    """Silence of any actor after which its process is ended and another begun; longer after each time,
    since a busy machine needs longer to start one."""
    swap_s_max: float = 30.0
    """After so long a restarted subscriber replaces its predecessor, whatever is still missing."""
    reshard_s_max: float = 30.0
    """Time that subscribers have to fill a layout whose processes are all up."""
    leave_s: float = 12.0
    """How long a layout is fed after readers were told to leave it: more than `view_s_max`."""
    lane_rest_s: float = 60.0
    """How long the lanes of a session that is over are kept from use: more than `view_s_max`."""
    warm_s_max: float = 5.0
    """A restarted directory shows no view for so long, unless all it knows of has reported before."""
    discovery_s: float = 10.0
    """For so long a restarted directory keeps pods that its discovery has not found again."""
    tick_s: float = 0.25


class DirectorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one cluster's directory is told; travels as msgpack."""

    cluster: str
    cluster_id: str
    """Of one `start`, random: what an earlier cluster of the name left behind is not continued."""
    owned: bool = False
    """The cluster ends with the process that started it."""
    config: bytes = b""
    """Of the whole cluster, as `start` was given it; compared, not read."""

    # What answers depend on.
    hash_seed: str | None = None
    """None: random, made once."""
    algorithm: str = "fold64"
    tier_weights: dict[str, float] = {}
    view_s_max: float = 10.0

    # Actors.
    n_shards: int = 1
    replicas_per_node: int = 0
    """0: one replica of each shard in all."""
    shard_nodes: tuple[str, ...] = ()
    """Ray ids; empty: any."""
    shard_placement: Placement = "spread"
    shard_resources: ActorResources = ActorResources()
    shard: bytes = b""
    """msgpack of ShardSettings."""
    pods_each: int = 16
    subscribers_max: int = 64
    """When there are so many, each follows more pods than `pods_each`."""
    near_pods: bool = True
    lanes_leased: int = 256
    workers_leased: int = 64
    subscriber_resources: ActorResources = ActorResources()
    subscriber: bytes = b""
    """msgpack of SubscriberSettings."""
    n_scorers: int = 0
    scorer_threads: int = 8
    scorer_nodes: tuple[str, ...] = ()
    scorer_placement: Placement = "spread"
    scorer_resources: ActorResources = ActorResources()
    scorer: bytes = b""
    """msgpack of ScorerSettings."""
    tokenizers: ScalingLimits = ScalingLimits()
    """How many there are, and when there are more."""
    tokenizer_nodes: tuple[str, ...] = ()
    tokenizer_placement: Placement = "spread"
    tokenizer_resources: ActorResources = ActorResources()
    tokenizer: bytes = b""
    """msgpack of TokenizerSettings; readers are told it too."""
    choosing: bytes = b""
    """msgpack of ChoosingConfig, for whoever chooses."""
    shares_loads: bool = True
    """Those who choose tell each other over sockets what they have reserved."""

    discovery: DiscoveryConfig = DiscoveryConfig()
    deadlines: Deadlines = Deadlines()
    views_per_s_max: int = 20

    def __repr__(self) -> str:
        """Without secrets."""
        return f"DirectorySettings(cluster={self.cluster!r}, ...)"
