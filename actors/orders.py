"""What the directory and the other actors tell each other. Small, rare, and in msgpack.

Every struct travels as the bytes of `encode`, so that a release may add fields: what a reader does
not know it ignores, what a writer does not send has its default. What the actors send each other all
the time (deltas, fetches) is in actors/link/messages.py.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.errors import DecodeError
from kvatlas.index.view import FleetPart

NAMESPACE = "kvatlas"
"""Ray namespace of all clusters; actors in it are named `<cluster>/<kind>...`."""

GUEST = "guest/"
"""How the names of sessions begin that no subscriber of the cluster feeds."""

T = TypeVar("T", bound=msgspec.Struct)


def encode(struct: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(struct)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises DecodeError when the bytes are no such struct."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"{kind.__name__}: expected its msgpack, {error}") from error


def is_guest(subscriber: str) -> bool:
    """Whether sessions of this name are nobody's whom the directory has begun."""
    return subscriber.startswith(GUEST)


class Lease(msgspec.Struct, frozen=True):
    """Consecutive numbers that one session may use: of lanes, or of workers."""

    first: int
    count: int


class LinkKeys(msgspec.Struct, frozen=True, kw_only=True):
    """CURVE keys of the sockets between actors, 40 characters of Z85 each. One pair for whoever binds,
    one for whoever connects; made once per cluster."""

    server_public: str
    server_secret: str = ""
    """Only for shards."""
    client_public: str = ""
    client_secret: str = ""

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"LinkKeys(server_public={self.server_public!r})"


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process that holds one shard of one layout."""

    shard: int
    replica: int
    incarnation: int
    """Of the process: issued by the directory, never twice."""
    node_id: str
    """Ray's id of the node that it runs on."""
    endpoint: str
    """Of its socket, tcp://HOST:PORT; empty where deltas travel by Ray calls."""
    path: str = ""
    """Control file of its table in shared memory; empty: private memory, read through messages."""
    actor: str = ""
    """Its name in Ray."""
    whole: bool = False
    """Every live session has loaded its content into it."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered generation of shards."""

    number: int
    n_shards: int
    replicas: tuple[Replica, ...] = ()
    """Those whose processes are up, in no particular order."""


class PartView(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one session, as the directory passes it on."""

    session: int
    subscriber: str
    lost: bool
    """Its subscriber is gone or silent: the part says what was true before."""
    part: FleetPart


class RouterAt(msgspec.Struct, frozen=True, kw_only=True):
    """One process that chooses."""

    number: int
    """Of this life of the process: random, 63 bits."""
    endpoint: str
    """Where it publishes its loads, tcp://HOST:PORT."""


class ToldServing(Serving, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """As `Serving`, perhaps of a release that knows more."""


class ToldPod(ServingPod, frozen=True, kw_only=True):
    """A pod that requests can be sent to, as discovery describes it; model "": as its events say."""

    serving: ToldServing = ToldServing()


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """What readers and subscribers know of a cluster. `Directory.view(since)` sends what is newer."""

    version: int
    """Rises with every change, also over restarts of the directory."""
    cluster: str
    cluster_id: str = ""
    """Of one start of a cluster of this name; another one has other secrets."""
    serving: Layout
    """The committed layout: readers use this one."""
    building: Layout | None = None
    """The next layout, while it is being filled: subscribers feed both."""
    leaving: tuple[Layout, ...] = ()
    """Served until a moment ago: subscribers feed them until readers have moved on."""
    sessions: tuple[int, ...] = ()
    """All whose parts count now; a reader drops the others."""
    lost: tuple[int, ...] = ()
    """Those of them that are lost, also where the directory, restarted, does not have their parts."""
    parts: tuple[PartView, ...] = ()
    """Those that have changed since the version asked from."""
    orders: dict[str, int] = {}
    """Version of each subscriber's orders, by its name: it asks again when it changes."""
    tokenizers: tuple[int, ...] = ()
    """Numbers of the tokenizers that can be asked."""
    pods: tuple[ToldPod, ...] | None = None
    """All pods that requests can be sent to. None: as they were in the version asked from."""
    routers: tuple[RouterAt, ...] = ()
    """Processes that choose, and tell each other what they have sent where."""


class ReuseTold(msgspec.Struct, frozen=True, array_like=True):
    """What a worker was predicted to reuse of prompts, and what it has reused."""

    pod: str
    rank: int
    model: str
    compared: tuple[tuple[int, int], ...]
    """Tokens predicted and actual, one pair a prompt."""


class ReuseReport(msgspec.Struct, frozen=True, kw_only=True):
    """Comparisons of one router, for the subscriber that follows the workers."""

    workers: tuple[ReuseTold, ...]


class RouterReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a process that chooses is; once a second."""

    number: int
    """Of this life of the process: random, 63 bits."""
    cluster_id: str
    """Of the start of the cluster that it has its secrets from."""
    endpoint: str = ""
    """Where it publishes its loads, tcp://HOST:PORT; empty: nowhere, others do not know of them."""
    node_id: str = ""
    process: int = 0
    requests: int = 0
    """Reserved by it just now."""
    peers: int = 0
    """Routers that it hears."""
    counts: dict[str, int] = {}


class RouterOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory answers a router."""

    goes: bool = False
    """Nobody here knows it: the cluster was started anew, or ends."""


class ReaderSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs besides the view. Handed out over Ray, which authenticates."""

    cluster_id: str = ""
    """As in the views that they are for."""
    hash_seed: str
    algorithm: str
    tier_weights: dict[str, float]
    keys: LinkKeys
    view_s_max: float
    """A view that nobody has confirmed for so long makes every worker DEGRADED."""
    tokenizer: bytes = b""
    """msgpack of `kvatlas.actors.tokenizer.settings.TokenizerSettings`: read where somebody tokenizes."""
    choosing: bytes = b""
    """msgpack of `kvatlas.index.choosing.settings.ChoosingConfig`: read where somebody chooses."""
    shares_loads: bool = True
    """Routers tell each other over sockets what they have reserved."""


class ShardAsks(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is to hold a shard asks for an incarnation."""

    layout: int
    shard: int
    replica: int
    actor: str
    node_id: str


class ShardOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory answers a shard."""

    incarnation: int = 0
    """Its own. Another, or 0: it is superseded by another process of its name, and leaves at once."""
    goes: bool = False
    """Its slot is not wanted any more: the actor should end for good."""
    retired: tuple[int, ...] = ()
    """Sessions that are over: their lanes are emptied, their messages refused."""
    sessions: tuple[int, ...] = ()
    """Those of the view: it is whole when all of them have loaded their content."""
    keys: LinkKeys | None = None


class ShardReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard is; once a second, and when it is up."""

    replica: Replica
    layout: int
    loaded: tuple[int, ...] = ()
    """Sessions whose content it has."""
    applied: dict[int, int] = {}
    """Number of the last delta, by session."""
    bytes: int = 0
    entries: int = 0
    counts: dict[str, int] = {}


class PodOrders(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that a subscriber is to follow."""

    pod: str
    source: bytes
    """msgpack of `kvatlas.ingest.discovery.pods.DiscoveredPod`."""


class SubscriberAsks(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber's process asks for a session; or a guest, whose name begins with `GUEST`."""

    name: str
    node_id: str
    actor: str


class SubscriberOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory answers a subscriber, each time it reports."""

    session: int = 0
    """Its own. Another, or 0: it is superseded by another process of its name, and leaves at once."""
    goes: bool = False
    """Its name is not wanted any more: the actor should end for good."""
    version: int = 0
    pods: tuple[PodOrders, ...] = ()
    """All that it is to follow."""
    lanes: tuple[Lease, ...] = ()
    """All that it holds."""
    workers: tuple[Lease, ...] = ()
    block_sizes: dict[str, int] = {}
    """By model, tokens: smaller than it thinks where another subscriber has heard a smaller one."""
    wants_part: bool = False
    """The directory does not know its part: it comes with the next report, changed or not."""
    hash_seed: str = ""
    keys: LinkKeys | None = None


class SubscriberReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscriber is; once a second, and when its part has changed."""

    session: int
    name: str
    part: FleetPart | None = None
    """None: as last told."""
    loaded: tuple[int, ...] = ()
    """Incarnations of the replicas that have acknowledged its content."""
    settled: bool = False
    """Every worker it knew from before is heard or given up: it may take the place of its predecessor."""
    lanes_free: int = 0
    workers_free: int = 0
    counts: dict[str, int] = {}
    bytes: int = 0
    leaves: bool = False
    """A guest that ends: its session is over."""


class TokenizerReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a tokenizer is; once a second, and when it is up."""

    number: int
    process: int
    """Its process id: another one has other counts."""
    node_id: str
    threads: int
    waiting: int = 0
    """Requests in its queue."""
    busy_share: float = 0.0
    """Of its threads' time since the last report, 0 to 1."""
    refused: int = 0
    """Requests since the last report that were more than its queue takes."""
    bytes: int = 0
    """Of requests that wait or are worked on."""
    models: int = 0
    """That it has loaded."""
    counts: dict[str, int] = {}


class TokenizerOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory answers a tokenizer."""

    goes: bool = False
    """It is not wanted any more: it ends for good when its queue is empty."""
