"""What chooses in one process for one cluster: a chooser, and what it says to other routers and hears."""

from __future__ import annotations

import logging
import secrets
import threading
import weakref

import msgspec
import ray

from kvatlas.actors.choosing.cluster_looker import ClusterLooker
from kvatlas.actors.choosing.cluster_tokenizers import ClusterTokenizers
from kvatlas.actors.choosing.ray_desk import RayDesk
from kvatlas.actors.choosing.reporting import Reporting
from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.loads.peers import Book
from kvatlas.actors.loads.sharing import LoadSharing, SharingStatistics
from kvatlas.actors.orders import decode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.connection import Connection
from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError

_NUMBER_BITS = 62
_log = logging.getLogger(__name__)


class RouterStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How a process chooses, besides what its chooser says."""

    number: int
    """Of this life of it; random."""
    sharing: SharingStatistics | None
    """None: loads are not shared, each router knows its own only."""
    says: str
    """Why the directory could not be told last; empty when it could."""
    counts: dict[str, int]


class Router:
    """A chooser over a connection, its sharing of loads, and its reports. Any thread may call it.

    Ends with whoever holds it: other routers then forget what is reserved here.
    """

    def __init__(self, connection: Connection, reader: ClusterReader) -> None:
        """Raises ConfigError for a policy that cannot be loaded in this process."""
        self.reader = reader
        told = reader.secrets.choosing
        config = decode(told, ChoosingConfig) if told else ChoosingConfig()
        self._feedback = ReuseFeedback()
        self._number = secrets.randbits(_NUMBER_BITS) + 1
        self.chooser = Chooser(
            ClusterLooker(reader, self._feedback),
            config,
            tokenizers=ClusterTokenizers(ClusterTokenizing(connection)),
        )
        self._sharing = _shared(self._number, reader, self.chooser.loads)
        self._reporting = Reporting(
            self._number,
            ray.get_runtime_context().get_node_id(),
            reader,
            self.chooser.loads,
            self._sharing,
            self._feedback,
            RayDesk(connection.calls.cluster),
            self.chooser.tidy,
        )
        # Threads hold what they need, and not the router: it can end.
        weakref.finalize(self, _end, self._sharing, self._reporting)

    def statistics(self) -> RouterStatistics:
        return RouterStatistics(
            number=self._number,
            sharing=None if self._sharing is None else self._sharing.statistics(),
            says=self._reporting.said,
            counts=dict(self._reporting.counts) | self._feedback.statistics(),
        )

    def close(self) -> None:
        """Others forget what is reserved here; choices go on, known to nobody. Twice is fine."""
        _end(self._sharing, self._reporting)


_routers: weakref.WeakKeyDictionary[ClusterReader, weakref.ref[Router]] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def router_over(connection: Connection) -> Router:
    """The process's router over a connection, shared by all who hold it; another one after the cluster
    was started anew. Raises ClusterError when the cluster cannot be found, ConfigError as `Router`."""
    reader = connection.reader()
    with _making:
        known = _routers.get(reader)
        router = None if known is None else known()
        if router is None:
            router = Router(connection, reader)
            _routers[reader] = weakref.ref(router)
        return router


def _shared(number: int, reader: ClusterReader, book: Book) -> LoadSharing | None:
    told = reader.secrets
    if not told.shares_loads or not told.keys.client_secret:
        return None
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    try:
        return LoadSharing(book, number, told.keys, reader, host=host)
    except ConfigError as error:
        _log.warning("loads are not shared with other routers: %s", error)
        return None


def _end(sharing: LoadSharing | None, reporting: Reporting) -> None:
    reporting.end()
    if sharing is not None:
        sharing.close()
