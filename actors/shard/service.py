"""One shard: a table, and the sessions that feed it. Knows no sockets and no Ray."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Address, Kind, Message
from kvatlas.actors.orders import Replica, ShardAsks, ShardOrders, ShardReport
from kvatlas.actors.shard.exporting import Exports
from kvatlas.actors.shard.session_writes import SessionWrites
from kvatlas.actors.shard.sessions import LaneTakenError, Sessions
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.actors.shard.table_files import open_table
from kvatlas.index._native import excerpt
from kvatlas.index.errors import InputError, KvatlasError

FETCH_KEYS_MAX = 1 << 20
"""Keys of one FETCH."""

_TOLD_OF_TABLE = ("dropped_entries", "dropped_adds", "rebuild_failures")


class ShardService:
    """Answers what subscribers and readers ask of one shard. Any thread may call any method.

    A fetch waits for nobody. Source: docs/shard_protocol.md.
    """

    def __init__(self, cluster: str, asks: ShardAsks, incarnation: int, settings: ShardSettings) -> None:
        """Raises ConfigError for a cluster's name that is none."""
        self.address = Address(asks.layout, asks.shard, incarnation)
        self.on_change: Callable[[], None] = lambda: None
        """Called when the shard has become whole, or is so no longer, by whoever has changed it."""
        self._asks = asks
        self._reply_bytes_max = settings.link.message_bytes_max
        self._counts: Counter[str] = Counter()
        self._counts_lock = threading.Lock()
        self._whole_lock = threading.Lock()
        self._is_whole = self._is_closed = self._is_in_doubt = False
        folder = settings.shared_memory_folder
        self.table = open_table(folder, cluster, asks, incarnation, settings.table_bytes_max)
        if folder and not self.path:
            self._count("table_private")
        self._sessions = Sessions()
        self._writes = SessionWrites(self.table, self._sessions, self._count)
        self._writers = {
            Kind.HELLO: self._writes.hello,
            Kind.DELTA: self._writes.delta,
            Kind.CONTENT: self._writes.content,
        }
        self.exports = Exports(self.table, self._count, settings.link.message_bytes_max)
        self._readers = {Kind.FETCH: self._fetch, Kind.TOUCH: self._touch, Kind.EXPORT: self._export}

    @property
    def path(self) -> str:
        """Control file of the table; empty: private memory."""
        return self.table.path

    @property
    def is_whole(self) -> bool:
        """Every live session has loaded its content."""
        return self._is_whole

    def handle(self, request: bytes) -> bytes:
        """The answer to one frame, whatever its bytes are."""
        asked = None
        try:
            asked = messages.decode_message(request)
            return self._answer(asked)
        except LaneTakenError as error:
            assert asked is not None
            return self._writes.fence(asked, str(error))
        except KvatlasError as error:
            self._count("refused")
            return messages.refused(str(error), asked)

    def _answer(self, asked: Message) -> bytes:
        if asked.address != self.address or self._is_closed:
            self._count("misled")
            here = "a shard that was closed" if self._is_closed else str(self.address)
            return messages.fenced(asked, f"expected {asked.address}, got {here}", session_over=False)
        if asked.kind in self._readers:
            return self._readers[asked.kind](asked)
        if asked.kind not in self._writers:
            raise InputError(f"kind: expected a request, got {asked.kind.name}")
        session = self._sessions.find(asked.session)
        if session is None:
            return self._writes.fence(asked, "it is over")
        reply = self._writers[asked.kind](asked, session)
        if asked.kind is not Kind.DELTA or not session.is_loaded:
            self._look_whole()
        return reply

    def retire(self, sessions: Iterable[int]) -> None:
        """These are over: their lanes are emptied, their messages answered FENCED."""
        self._writes.retire(sessions)
        self._look_whole()

    def sessions_live(self, sessions: Iterable[int]) -> None:
        """The shard is whole when all of these have loaded."""
        self._sessions.set_live(sessions)
        self._look_whole()

    def obey(self, orders: ShardOrders) -> None:
        """What the directory says."""
        self.retire(orders.retired)
        self.sessions_live(orders.sessions)

    def doubt(self) -> None:
        """The process was paused and may be superseded: it is not whole until `trust`."""
        self._is_in_doubt = True
        self._look_whole()

    def trust(self) -> None:
        """It is not superseded."""
        self._is_in_doubt = False
        self._look_whole()

    def heartbeat(self) -> None:
        """Tell readers of the shared memory that the process lives."""
        self.table.heartbeat()
        self.exports.tidy()

    def report(self, endpoint: str = "") -> ShardReport:
        """`endpoint`: of its socket."""
        sessions, table = self._sessions.all(), self.table.statistics()
        with self._counts_lock:
            counts = dict(self._counts)
        replica = Replica(
            shard=self._asks.shard,
            replica=self._asks.replica,
            incarnation=self.address.incarnation,
            node_id=self._asks.node_id,
            endpoint=endpoint,
            path=self.path,
            actor=self._asks.actor,
            whole=self._is_whole,
        )
        return ShardReport(
            replica=replica,
            layout=self._asks.layout,
            loaded=tuple(session.number for session in sessions if session.is_loaded),
            applied={session.number: session.have for session in sessions},
            bytes=table["bytes"],
            entries=table["entries"],
            counts={**counts, **{name: table[name] for name in _TOLD_OF_TABLE}},
        )

    def close(self) -> None:
        """Readers are told; later requests are answered FENCED. Twice is fine."""
        self._is_closed = True
        self.exports.close()
        self.table.close()

    def _fetch(self, asked: Message) -> bytes:
        keys = messages.keys_of(asked)
        if len(keys) > FETCH_KEYS_MAX:
            raise InputError(f"fetch: expected at most {FETCH_KEYS_MAX} keys, got {len(keys)}")
        is_whole = self._is_whole  # of before: what becomes whole meanwhile may have been read too early
        reply = messages.excerpted(asked, excerpt(self.table, keys), whole=is_whole)
        if len(reply) > self._reply_bytes_max:
            raise InputError(
                f"fetch: expected an answer of at most {self._reply_bytes_max} bytes, got {len(reply)}"
            )
        self._count("fetches")
        self._count("fetched_keys", len(keys))
        return reply

    def _touch(self, asked: Message) -> bytes:
        self.table.touch(messages.keys_of(asked))
        self._count("touches")
        return messages.applied(asked)

    def _export(self, asked: Message) -> bytes:
        is_whole = self._is_whole  # of before, as in _fetch
        return self.exports.answer(asked, whole=is_whole)

    def _look_whole(self) -> None:
        with self._whole_lock:
            is_whole = self._sessions.are_whole and not self._is_in_doubt
            if self._is_closed or is_whole == self._is_whole:
                return
            self._is_whole = is_whole
            self.table.set_whole(self._is_whole)
        self.on_change()

    def _count(self, name: str, many: int = 1) -> None:
        with self._counts_lock:
            self._counts[name] += many
