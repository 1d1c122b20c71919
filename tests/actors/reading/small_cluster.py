"""Shards in this process, with their sockets and tables; a fleet that feeds them; a view of both."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kvatlas.actors.link import messages
from kvatlas.actors.link.link import LinkSettings, ShardLink
from kvatlas.actors.link.links import Links
from kvatlas.actors.link.messages import Kind, decode_message
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import ClusterView, Layout, PartView, ReaderSecrets, Replica, ShardAsks, encode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.index._native import route
from kvatlas.index.scores import Scores
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import CountedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.actors.link.link_peers import new_keys
from tests.ingest.plain_batches import batch, stored

HERE, ELSEWHERE = "node-here", "node-elsewhere"
SEED = "seed"
KEYS = new_keys()
SETTINGS = ReaderSettings(fetch_s_max=10.0, view_wait_s=0.5, table_age_s_max=60.0)
"""Patient: a slow machine is not a fault."""


class ShardAtHand:
    """One replica: service, table, socket. It never reports; the cluster looks itself."""

    def __init__(self, layout: int, shard: int, incarnation: int, folder: Path | None) -> None:
        asks = ShardAsks(layout=layout, shard=shard, replica=0, actor=f"s{incarnation}", node_id=HERE)
        settings = ShardSettings(
            table_bytes_max=4 << 20, shared_memory_folder="" if folder is None else str(folder)
        )
        self.service = ShardService("small", asks, incarnation, settings)
        self.service.heartbeat()
        self.server = LinkServer(self.service.handle, KEYS, settings=LinkSettings())
        self.incarnation = incarnation
        self.have: dict[int, int] = {}

    def tell(self, frame: bytes) -> None:
        """A frame that must be applied."""
        answer = decode_message(self.service.handle(frame))
        assert answer.kind is Kind.APPLIED, answer

    def replica(self, node_id: str) -> Replica:
        address = self.service.address
        return Replica(
            shard=address.shard,
            replica=0,
            incarnation=self.incarnation,
            node_id=node_id,
            endpoint=self.server.endpoint,
            path=self.service.path,
            actor="",
            whole=self.service.is_whole,
        )

    def close(self) -> None:
        self.server.close()
        self.service.close()


class Board:
    """What a directory does for readers: the newest view, as soon as there is one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._view: ClusterView | None = None
        self._parts: dict[int, tuple[int, PartView]] = {}
        self.is_silent = False
        """Questions fail, as with a directory that is gone."""
        self.asked: list[int] = []

    def show(self, serving: Layout, parts: Iterable[PartView], cluster_id: str = "") -> int:
        """A new version with these parts; those that are as before are not told again."""
        with self._changed:
            version = 1 if self._view is None else self._view.version + 1
            told = {part.session: part for part in parts}
            for session, part in told.items():
                if session not in self._parts or self._parts[session][1] != part:
                    self._parts[session] = (version, part)
            self._parts = {session: at for session, at in self._parts.items() if session in told}
            self._view = ClusterView(
                version=version,
                cluster="small",
                cluster_id=cluster_id,
                serving=serving,
                sessions=tuple(sorted(told)),
            )
            self._changed.notify_all()
            return version

    def fetch(self, since: int, wait_s: float) -> bytes:
        with self._changed:
            self.asked.append(since)
            self._changed.wait_for(lambda: self.is_silent or self._version > since, wait_s)
            if self.is_silent or self._view is None:
                raise ConnectionError("the directory is silent")
            parts = tuple(part for version, part in self._parts.values() if version > since)
            return encode(msgspec.structs.replace(self._view, parts=parts))

    @property
    def _version(self) -> int:
        return 0 if self._view is None else self._view.version

    def silence(self, is_silent: bool = True) -> None:
        with self._changed:
            self.is_silent = is_silent
            self._changed.notify_all()


class SmallCluster:
    """A fleet, its shards and what readers are told of them; `feed` brings everything up to date."""

    def __init__(
        self, n_shards: int, folder: Path | None, config: AtlasConfig | None = None, session: int = 1
    ) -> None:
        """`folder`: of the tables; None: private memory."""
        self.config = config or AtlasConfig()
        self.folder = folder
        self.board = Board()
        self.session = session
        self.mirror = FleetMirror(self.config, GatheringOutlet(), CountedNumbers(), hash_seed=SEED)
        self.incarnations = iter(range(100, 10_000))
        self.shards = [ShardAtHand(1, n, next(self.incarnations), folder) for n in range(n_shards)]
        self.nodes = [HERE] * n_shards
        self._loaded: set[int] = set()
        self._readers: list[ClusterReader] = []
        self._links: list[Links] = []

    def feed(self) -> None:
        """Everything that the fleet has told is in the shards, and the readers' view says so."""
        records = b"".join(self.mirror.take())
        for n, delta in enumerate(route(records, len(self.shards))):
            if delta and self.shards[n].incarnation in self._loaded:
                self._tell(
                    self.shards[n],
                    lambda at, number, delta=delta: messages.delta(
                        at.service.address, self.session, number, delta
                    ),
                )
        self._load()
        self.show()

    def _load(self) -> None:
        contents = list(self.mirror.content())
        lanes = [lane for content in contents for lane in content.lanes]
        pieces = [route(content.records, len(self.shards)) for content in contents]
        for n, shard in enumerate(self.shards):
            if shard.incarnation not in self._loaded:
                records = b"".join(piece[n] for piece in pieces)
                number = shard.have[self.session] = shard.have.get(self.session, 0) + 1
                shard.tell(messages.content(shard.service.address, self.session, number, lanes, records))
                self._loaded.add(shard.incarnation)
            shard.service.sessions_live([self.session])

    def _tell(self, shard: ShardAtHand, frame: object) -> None:
        number = shard.have[self.session] = shard.have.get(self.session, 0) + 1
        shard.tell(frame(shard, number))  # type: ignore[operator]

    def layout(self) -> Layout:
        replicas = tuple(shard.replica(node) for shard, node in zip(self.shards, self.nodes, strict=True))
        return Layout(number=1, n_shards=len(self.shards), replicas=replicas)

    def part(self, *, lost: bool = False) -> PartView:
        return PartView(session=self.session, subscriber="0", lost=lost, part=self.mirror.part())

    def show(self) -> int:
        return self.board.show(self.layout(), [self.part()])

    def secrets(self, view_s_max: float = 60.0) -> ReaderSecrets:
        return ReaderSecrets(
            hash_seed=SEED,
            algorithm=self.config.algorithm,
            tier_weights=dict(self.config.tier_weights),
            keys=KEYS,
            view_s_max=view_s_max,
        )

    def links(self) -> Links:
        links = Links(KEYS)
        self._links.append(links)
        return links

    def reader(
        self,
        node_id: str = HERE,
        settings: ReaderSettings = SETTINGS,
        view_s_max: float = 60.0,
        **more: object,
    ) -> ClusterReader:
        links = self.links()

        def open_link(replica: Replica) -> ShardLink:
            return links.open(replica)

        reader = ClusterReader(
            self.board.fetch,
            self.secrets(view_s_max),
            node_id=node_id,
            open_link=open_link,
            settings=settings,
            **more,  # type: ignore[arg-type]
        )
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self.board.silence()
        for links in self._links:
            links.close()
        for shard in self.shards:
            shard.close()
        self.mirror.close()


PROMPT = list(range(1000, 1000 + 16 * 500))
BLOCKS = 499.0
"""Of the prompt: its last one is computed again."""


def holding_prompt(folder: Path) -> SmallCluster:
    """Two shards that hold a part each of `PROMPT`, on pod a of model m."""
    made = SmallCluster(2, folder)
    made.mirror.ingest(b"kv@a@m", 0, batch(stored(list(range(1, 501)), PROMPT)))
    made.feed()
    assert all(shard.service.table.statistics()["entries"] for shard in made.shards)
    return made


def ask(reader: ClusterReader) -> Scores:
    """For `PROMPT`."""
    return reader.score(PROMPT, model="m")


def how(reader: ClusterReader) -> list[str]:
    """How each shard is read."""
    return [shard.how for shard in reader.status().shards]
