"""Sessions that write all the time, shards on sockets, and a desk to take cuts at; no Ray.

Each session has two workers, fed in turn. Batch n of a worker stores one chain of its own, which lies
in whichever shard: a cut that is torn lacks a chain before the last one it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.links import Links
from kvatlas.actors.moving.cut import ClusterCut
from kvatlas.actors.orders import ClusterView, PartView, Replica
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.actors.subscriber.outbox import Outbox
from kvatlas.actors.subscriber.settings import OutboxSettings
from kvatlas.index._native import Table, deltas_of
from kvatlas.index.errors import ClusterError, KvatlasError
from kvatlas.index.keys import keyspace
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.actors.link.link_peers import wait_until
from tests.actors.subscriber.shards_on_sockets import SocketShards
from tests.ingest.plain_batches import batch, stored

T = TypeVar("T")
MODEL = "m"
BLOCK_SIZE = 4
CHAIN_BLOCKS = 3
CHAINS_MAX = 4000
CONFIG = AtlasConfig(models={MODEL: ModelConfig(block_size_tokens=BLOCK_SIZE)})


def tokens_of(session: int, at: int, n: int) -> list[int]:
    """Of chain n of a worker."""
    return [session, at, n, *range(CHAIN_BLOCKS * BLOCK_SIZE - 3)]


class Session:
    """One subscriber without sockets: a mirror of two workers, and its outbox."""

    def __init__(self, number: int, links: Links) -> None:
        self.number = number
        self.name = str(number)
        numbers = LeasedNumbers(rest_s=0.0)
        numbers.lease([(100 * number, 50)], [(100 * number, 50)])
        self.mirror = FleetMirror(CONFIG, GatheringOutlet(), numbers, hash_seed="seed")
        self.outbox = Outbox(self.mirror, number, links.open, OutboxSettings(request_s_max=5.0))
        self.told = [0, 0]
        """Batches of each of its workers."""
        self.seen = 0
        """Of these, in the last cut."""
        self._stopping = threading.Event()
        self._writer = threading.Thread(target=self._write)
        self.tell()

    def pods(self) -> list[str]:
        return [f"pod{self.number}a", f"pod{self.number}b"]

    def tell(self) -> None:
        """One more chain of each worker."""
        for at, pod in enumerate(self.pods()):
            n = self.told[at]
            hashes = [n * CHAIN_BLOCKS + block + 1 for block in range(CHAIN_BLOCKS)]
            event = stored(hashes, tokens_of(self.number, at, n), block_size=BLOCK_SIZE)
            self.mirror.ingest(f"kv@{pod}@{MODEL}".encode(), n, batch(event))
            self.told[at] += 1

    def write(self) -> None:
        """Go on telling until `close`."""
        self._writer.start()

    def _write(self) -> None:
        while not self._stopping.is_set() and self.told[0] < CHAINS_MAX:
            self.tell()
            self._stopping.wait(0.0005)  # others need the processor too

    def close(self) -> None:
        self._stopping.set()
        if self._writer.ident is not None:
            self._writer.join()
        self.outbox.stop()
        self.mirror.close()


class CutRig:
    """Is itself the desk."""

    def __init__(self, n_sessions: int = 2, n_shards: int = 3) -> None:
        self.closing = ExitStack()
        self.shards = self.closing.enter_context(SocketShards(n_shards))
        self.links = Links(self.shards.keys)
        self.closing.callback(self.links.close)
        self.sessions = {number: Session(number, self.links) for number in range(1, n_sessions + 1)}
        self.lost: tuple[int, ...] = ()
        self.holds: list[str] = []
        self.views = 0
        self.changes_at = 0
        """The view, counted from 1, that has a session more."""
        self.changes_always = False
        self._opened: dict[int, ShardLink] = {}
        for session in self.sessions.values():
            self.closing.callback(session.close)
            session.outbox.start()
        self.follow()

    def follow(self) -> None:
        """All sessions feed all shards, and have."""
        for session in self.sessions.values():
            session.outbox.follow(self.shards.view(*self.sessions))
        up = sorted(replica.incarnation for replica in self.shards.plan.replicas)
        wait_until(lambda: all(sorted(one.outbox.loaded) == up for one in self.sessions.values()))
        for shard in self.shards.shards:
            shard.service.sessions_live(self.sessions)
        self.refresh()

    def refresh(self) -> None:
        """The view says of shards what they say now."""
        reports = [shard.service.report(shard.server.endpoint) for shard in self.shards.shards]
        self.shards.plan.replicas = [report.replica for report in reports]

    # The desk.

    def view(self) -> ClusterView:
        self.views += 1
        strange = self.views == self.changes_at or (self.changes_always and self.views % 2 == 0)
        parts = tuple(
            PartView(session=number, subscriber=one.name, lost=number in self.lost, part=one.mirror.part())
            for number, one in self.sessions.items()
        )
        view = self.shards.view(*self.sessions)
        return ClusterView(
            version=view.version,
            cluster="c",
            serving=view.serving,
            sessions=(*view.sessions, 99) if strange else view.sessions,
            lost=self.lost,
            parts=parts,
        )

    def hold(self, subscriber: str, asks: HoldAsks) -> Future[HoldReport]:
        self.holds.append(subscriber)
        outbox = self._session(subscriber).outbox
        return done(lambda: outbox.hold(asks))

    def release(self, subscriber: str, token: int) -> Future[bool]:
        outbox = self._session(subscriber).outbox
        return done(lambda: outbox.release(token))

    def link(self, replica: Replica) -> ShardLink:
        if replica.incarnation not in self._opened:
            self._opened[replica.incarnation] = self.links.open(replica)
        return self._opened[replica.incarnation]

    def _session(self, name: str) -> Session:
        if int(name) not in self.sessions:
            raise ClusterError(f"subscriber {name}: expected its actor, found none")
        return self.sessions[int(name)]

    def close(self) -> None:
        self.closing.close()


def done(call: Callable[[], T]) -> Future[T]:
    """A call that has been answered, as Ray answers."""
    answer: Future[T] = Future()
    try:
        answer.set_result(call())
    except KvatlasError as error:
        answer.set_exception(error)
    return answer


def content(cut: ClusterCut) -> dict[str, list[int]]:
    """Numbers of the chains that each pod holds all of in a cut, ascending; fails for a part of a chain."""
    table = Table(budget_bytes=64 << 20)
    for export in cut.exports:
        for section in export.sections():
            for records in deltas_of(section, None, 1):
                table.apply(records)
    space = keyspace(MODEL, BLOCK_SIZE, "fold64", "seed")
    found: dict[str, list[int]] = {}
    for session in cut.parts:
        for worker in session.part.workers:
            number, at = int(worker.pod[3:-1]), "ab".index(worker.pod[-1])
            lanes = {group.lane for group in worker.groups}
            chains = found.setdefault(worker.pod, [])
            for n in range(CHAINS_MAX):
                held = [
                    lanes & {lane for lane, tiers in holders if tiers}
                    for holders in table.lookup(space.keys(tokens_of(number, at, n)))
                ]
                assert len({bool(lane) for lane in held}) == 1, (worker.pod, n, held)
                if held[0]:
                    chains.append(n)
    return found
