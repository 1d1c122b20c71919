"""How a cluster is, for people and tools."""

from __future__ import annotations

import msgspec


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the Ray cluster."""

    node_id: str
    address: str


class LayoutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of shards."""

    number: int
    n_shards: int
    state: str
    """serving, building or leaving."""
    n_slots: int
    """Processes that it wants."""
    n_up: int
    n_whole: int
    age_s: float


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process that holds a shard, or the place for one."""

    layout: int
    shard: int
    replica: int
    node_id: str
    incarnation: int
    """0: no process has enlisted."""
    is_up: bool
    whole: bool
    bytes: int
    entries: int
    silent_s: float
    counts: dict[str, int]


class SubscriberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One session of one subscriber."""

    name: str
    session: int
    node_id: str
    is_used: bool
    """Readers use its part; else it is to replace the one that they use."""
    lost: bool
    settled: bool
    n_pods: int
    n_workers: int
    n_lanes: int
    """Leased to it."""
    loaded: int
    """Replicas that have its content."""
    bytes: int
    silent_s: float
    counts: dict[str, int]


class TokenizerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One actor that tokenizes, or the place for one."""

    number: int
    name: str
    """Of the actor."""
    node_id: str
    is_up: bool
    """It is asked."""
    threads: int
    waiting: int
    busy_share: float
    """Of its threads' time in the last second."""
    bytes: int
    """Of requests that wait or are worked on."""
    models: int
    """That it has loaded."""
    silent_s: float
    counts: dict[str, int]


class PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that discovery knows."""

    pod: str
    model: str | None
    subscriber: str
    """Name of the one that follows it; empty: none does."""
    state: str
    """following, leaving, held, asking or refused."""
    why: str
    found_by: str
    serves: str = ""
    """Where requests are sent to, its role where it has one, and whether it is draining."""


class RouterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that chooses."""

    number: int
    node_id: str
    process: int
    """Its process id there."""
    endpoint: str
    """Where it publishes its loads; empty: nowhere."""
    requests: int
    """Reserved by it just now."""
    peers: int
    """Routers that it hears."""
    silent_s: float
    counts: dict[str, int]


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the directory knows, at one moment."""

    cluster: str
    view_version: int
    directory_age_s: float
    desired_shards: int
    desired_replicas_per_node: int
    off_nodes: tuple[str, ...]
    building_waits_for: str
    """What the next layout still lacks; empty: nothing is being built."""
    nodes: tuple[NodeStatus, ...]
    layouts: tuple[LayoutStatus, ...]
    shards: tuple[ShardStatus, ...]
    subscribers: tuple[SubscriberStatus, ...]
    scorers: tuple[str, ...]
    """Names of the actors."""
    pods: tuple[PodStatus, ...]
    counts: dict[str, int]
    lanes_free: int
    workers_free: int
    tokenizers: tuple[TokenizerStatus, ...] = ()
    """Empty where each client tokenizes for itself."""
    routers: tuple[RouterStatus, ...] = ()
