"""How many actors of each kind, where, with what resources and bounds."""

from __future__ import annotations

import msgspec

from kvatlas.cluster.config.ranges import (
    Amount,
    Count,
    LaneCount,
    Placement,
    ReplicaCount,
    Room,
    ScorerCount,
    Seconds,
    ShardCount,
    TableRoom,
    TokenizerCount,
    check_fields,
)
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Ray sets aside for one actor. It counts them, and holds nobody to them."""

    cpus: Amount = 0.0
    """Logical CPUs. 0: it runs wherever there is room for its memory."""
    memory_bytes: Amount = 0.0
    """Of a node's memory. 0: not counted."""
    custom: dict[str, Amount] = {}
    """Resources of your own by name: {"router_nodes": 0.001} keeps it on nodes that have some."""

    def __post_init__(self) -> None:
        check_fields(self)


class ShardsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The partitions of the index."""

    count: ShardCount = 4
    """Shards of the index. More of them hold more and take more events; a prompt touches
    few of them however many there are. `kvatlas scale` changes it while all goes on."""
    replicas_per_node: ReplicaCount = 0
    """Replicas of every shard on each of `nodes`, so that readers there call nobody. 0: one replica
    of each shard in the whole cluster."""
    nodes: tuple[str, ...] = ()
    """Ray ids of the nodes that shards may be on. Empty: any."""
    placement: Placement = "spread"
    """Where one replica of each is enough: `spread` over the nodes, or `pack` onto few."""
    table_bytes_max: TableRoom = 1 << 30
    """Byte budget of each shard's table, two generations while it is rebuilt included. At the
    budget the coldest segments are dropped, and counted."""
    shared_memory_folder: str = "/dev/shm"
    """Where tables lie, so that readers on the node need no messages. Empty, missing or full: private
    memory, read through messages."""
    heartbeat_s: Seconds = 1.0
    """Time between two signs of life of a shard, in its table and to the directory."""
    resources: Resources = Resources()
    """Of each replica."""

    def __post_init__(self) -> None:
        check_fields(self)


class SubscribersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The actors that follow pods and feed the shards."""

    pods_each: Count = 16
    """Pods that one subscriber follows; a new one is started when all have so many. Pods that share a
    store of KV files, or dial one address, stay together even beyond it."""
    near_pods: bool = True
    """Start a subscriber on the Ray node of its first pod, where there is one."""
    checkpoint_folder: str | None = None
    """Where subscribers keep checkpoints: a folder that every node sees, or local, then they serve
    restarts on the same node. None: no checkpoints, a restarted subscriber asks for replays only."""
    checkpoint_s: Seconds = 30.0
    """Time between two checkpoints."""
    outbox_bytes_max: Room = 64 << 20
    """Deltas that wait for one replica; beyond, they are dropped and its content is sent again."""
    settle_s: Seconds = 3.0
    """After a restart, for so long its predecessor's answers stand while workers are asked for replays."""
    lanes_leased: LaneCount = 256
    """Lanes that a subscriber is given at a time."""
    sockets: SubscriberConfig = SubscriberConfig()
    """Limits and timers of its sockets."""
    resources: Resources = Resources()
    """Of each subscriber."""

    def __post_init__(self) -> None:
        check_fields(self)


class ScorersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Actors that answer for callers who cannot, or would rather not, read the shards themselves."""

    count: ScorerCount = 0
    """0: every client reads for itself."""
    threads: Count = 8
    """Calls that one scorer works on at a time."""
    placement: Placement = "spread"
    """`spread` over the nodes, or `pack` onto few."""
    nodes: tuple[str, ...] = ()
    """Ray ids of the nodes that they may be on. Empty: any."""
    resources: Resources = Resources()
    """Of each scorer."""

    def __post_init__(self) -> None:
        check_fields(self)


class TokenizersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pool of actors that turn prompts and chats into token ids, and how many there are at a time."""

    count_min: TokenizerCount = 0
    """Of a pool there is always one at least."""
    count_max: TokenizerCount = 0
    """0: no pool, every client tokenizes in its own process."""
    threads: Count = 4
    """Requests that one process works on at a time; in a client those of its event loops."""
    waiting_max: Count = 256
    """Requests that wait for one process; more are refused as overloaded."""
    waiting_bytes_max: Room = 256 << 20
    """Their texts, in bytes."""
    wait_s_max: Seconds = 30.0
    """A request that waited for so long is refused."""
    call_s_max: Seconds = 60.0
    """Time that a client gives the pool for one answer."""
    grow_s: Seconds = 2.0
    """The pool grows when requests have waited in it for so long."""
    shrink_s: Seconds = 120.0
    """It shrinks when one tokenizer less would have done for so long."""
    placement: Placement = "spread"
    """`spread` over the nodes, or `pack` onto few."""
    nodes: tuple[str, ...] = ()
    """Ray ids of the nodes that they may be on. Empty: any."""
    resources: Resources = Resources()
    """Of each tokenizer."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.count_min > self.count_max:
            raise ConfigError(
                f"count_min: expected at most count_max ({self.count_max}), got {self.count_min}"
            )


class DirectoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one actor that knows the others: its deadlines."""

    report_s: Seconds = 1.0
    """Time between two reports of each actor."""
    session_lost_s: Seconds = 3.0
    """Silence of a subscriber after which its workers are DEGRADED."""
    shard_silent_s: Seconds = 10.0
    """Silence of a shard after which its process is replaced."""
    reshard_s_max: Seconds = 30.0
    """Time that subscribers have to fill a new layout; those that miss it have their workers BLIND
    in it until they have caught up."""
    swap_s_max: Seconds = 30.0
    """After so long a restarted subscriber takes its predecessor's place, whatever is still missing."""
    leave_s: Seconds = 12.0
    """How long a layout that is served no more is still fed, for readers with an older view: more than
    `reading.view_s_max`."""
    lane_rest_s: Seconds = 60.0
    """How long a lane given back is kept from use, so that nobody takes one worker's for another's:
    more than `reading.view_s_max`."""
    views_per_s_max: Count = 20
    """Views that readers are sent in a second; changes in between go together."""
    resources: Resources = Resources()
    """Of the directory."""

    def __post_init__(self) -> None:
        check_fields(self)


class ReadingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clients and scorers."""

    view_s_max: Seconds = 10.0
    """A view of the cluster that nobody has confirmed for so long makes every worker DEGRADED."""
    fetch_s_max: Seconds = 0.25
    """Time that a shard on another node has to answer; after it counts as empty for this answer, which
    says that it is not whole."""

    def __post_init__(self) -> None:
        check_fields(self)
