"""The replicas that a reader knows: which it has attached to, which it asks, which have failed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection

import numpy as np

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.messages import Address
from kvatlas.actors.orders import Layout, Replica
from kvatlas.actors.reading.fetcher import Fetcher
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.reading.shard_sources import Attached, ShardSources
from kvatlas.index._native import TableReader
from kvatlas.index.errors import ConfigError, StaleTableError, TableFileError

OpenLink = Callable[[Replica], ShardLink]
_LEAVES_S = 5.0
_NO_KEYS = np.empty(0, np.uint64)
_log = logging.getLogger(__name__)


class Replicas:
    """Keeps tables and links by incarnation. One thread at a time; what `choose` returns, any."""

    def __init__(self, node_id: str, open_link: OpenLink | None, settings: ReaderSettings) -> None:
        """`open_link`: None where nothing may be asked."""
        self.counts: Counter[str] = Counter()
        self._node_id = node_id
        self._open_link = open_link
        self._settings = settings
        self._tables: dict[int, Attached] = {}
        self._fetchers: dict[tuple[int, str], Fetcher] = {}
        """By incarnation and endpoint."""
        self._stale: dict[int, Attached] = {}
        """Those whose writer is gone or paused: not used, until it is heard again."""
        self._unattachable: set[int] = set()
        self._is_late = False
        """A table on this node has no beating writer yet."""
        self._leaving: list[tuple[float, Fetcher]] = []
        """Those of no use any more, until whoever has just begun to ask them is done."""

    def choose(self, layout: Layout) -> ShardSources:
        """How each shard is read best now; what is of no use any more is let go."""
        self._is_late = False
        attached: dict[int, Attached] = {}
        asked: dict[int, list[Fetcher]] = {}
        for shard in range(layout.n_shards):
            replicas = [replica for replica in layout.replicas if replica.shard == shard]
            replicas.sort(key=lambda replica: (not replica.whole, -replica.incarnation))
            at = next(filter(None, map(self._attach, replicas)), None)
            if at is not None:
                attached[shard] = at
            fetchers = [self._fetcher(layout, replica) for replica in replicas]
            asked[shard] = [fetcher for fetcher in fetchers if fetcher is not None]
        self._forget(layout.replicas)
        left = {shard: some for shard, some in asked.items() if some and shard not in attached}
        return ShardSources(layout.n_shards, attached, left)

    def _attach(self, replica: Replica) -> Attached | None:
        number = replica.incarnation
        if number in self._tables:
            return self._tables[number]._replace(replica=replica)
        is_here = self._settings.attaches and replica.node_id == self._node_id and replica.path
        if not is_here or number in self._stale or number in self._unattachable:
            return None
        try:
            table = TableReader(replica.path, age_ms_max=round(self._settings.table_age_s_max * 1000))
        except TableFileError as error:
            _log.warning("shard %d is asked, since its table cannot be attached to: %s", replica.shard, error)
            self.counts["failed_attaches"] += 1
            if isinstance(error, StaleTableError):
                self._is_late = True
            else:
                self._unattachable.add(number)
            return None
        self._tables[number] = Attached(replica, table)
        return self._tables[number]

    def _fetcher(self, layout: Layout, replica: Replica) -> Fetcher | None:
        number, at = replica.incarnation, (replica.incarnation, replica.endpoint)
        if at not in self._fetchers and self._open_link is not None:
            try:
                link = self._open_link(replica)
            except ConfigError as error:
                _log.warning("shard %d cannot be asked: %s", replica.shard, error)
                self.counts["failed_links"] += 1
                return None
            address = Address(layout.number, replica.shard, number)
            self._fetchers[at] = Fetcher(address, link, self._settings)
        return self._fetchers.get(at)

    def _forget(self, kept: Collection[Replica]) -> None:
        """Let go of all but these."""
        numbers = {replica.incarnation for replica in kept}
        for at in self._fetchers.keys() - {(replica.incarnation, replica.endpoint) for replica in kept}:
            self._leaving.append((time.monotonic() + _LEAVES_S, self._fetchers.pop(at)))
        for known in (self._tables, self._stale):
            for number in known.keys() - numbers:
                del known[number]
        self._unattachable &= numbers

    def find_stale(self) -> bool:
        """Look whether writers of tables have gone, or those that had gone are heard again; true when
        another choice should be made."""
        gone = [number for number, at in self._tables.items() if not _lives(at.table)]
        back = [number for number, at in self._stale.items() if _lives(at.table)]
        self.counts["stale_tables"] += len(gone)
        for number in gone:
            self._stale[number] = self._tables.pop(number)
        for number in back:
            self._tables[number] = self._stale.pop(number)
        return bool(gone or back or self._is_late)

    def tend(self, now_s: float) -> None:
        """Now and then: see to replicas that were down, and tell which segments are in use."""
        self._close_leaving(now_s)
        for number, at in self._tables.items():
            fetcher = self._fetchers.get((number, at.replica.endpoint))
            if fetcher is not None:
                fetcher.used(at.table.take_touched())
        for fetcher in self._fetchers.values():
            fetcher.probe()
            fetcher.tell_use()

    @property
    def has_down(self) -> bool:
        """Something that was there is not, and is looked for again and again."""
        return (
            bool(self._stale) or self._is_late or any(fetcher.is_down for fetcher in self._fetchers.values())
        )

    def total(self) -> Counter[str]:
        """Counts of all replicas ever."""
        total = Counter(self.counts)
        for fetcher in [*self._fetchers.values(), *(fetcher for _, fetcher in self._leaving)]:
            total.update(fetcher.counts)
        return total

    def close(self) -> None:
        """Let go of all of them. Twice is fine."""
        self._forget(())
        self._close_leaving(float("inf"))

    def _close_leaving(self, now_s: float) -> None:
        for until_s, fetcher in self._leaving:
            if until_s <= now_s:
                self.counts.update(fetcher.counts)
                fetcher.close()
        self._leaving = [at for at in self._leaving if at[0] > now_s]


def _lives(table: TableReader) -> bool:
    try:
        table.lookup(_NO_KEYS)
    except TableFileError:
        return False
    return True
