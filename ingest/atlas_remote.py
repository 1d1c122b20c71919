"""An atlas whose index lies in a server: its mirrors write there, and its reads see what all have written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Hashable

import msgspec

from kvatlas.index.prompts import Tokenizing
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.common_keys import agreed_seed, confirm_seed, known_seed
from kvatlas.index.remote.fleet.reading import Keyed, RemoteReaderStatus, RemoteReading
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.llmd_writer import LlmdWriter
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from kvatlas.ingest.remote_writer import RemoteWriter, RemoteWriterStatus

NUMBERS = 65_504
"""Its own, of lanes and of workers; what they are in the server is its session's."""


class IndexStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an atlas stands to the server that its index is in."""

    writer: RemoteWriterStatus
    reader: RemoteReaderStatus
    failure: str | None
    """Why nothing is written any more; None: all is well. Begin the process anew."""


def index_status(writer: RemoteWriter | LlmdWriter, reads: RemoteAtlas) -> IndexStatus:
    """How its two halves stand."""
    failure = None if writer.failure is None else repr(writer.failure)
    return IndexStatus(writer=writer.status(), reader=reads.status(), failure=failure)


class RemoteHome:
    """The parts of an atlas that differ where its index is remote. Ends with `close`."""

    def __init__(
        self, config: AtlasConfig, tokenizers: Tokenizing | None, clock_s: Callable[[], float]
    ) -> None:
        """Raises ConfigError without redis-py, or where others in the index key otherwise.

        RemoteIndexError when `hash_seed` is not given and the server, which has it, cannot be asked.
        """
        at = config.index
        self._connection = connection = RemoteConnection(at.server)
        try:
            self._make(config, tokenizers, clock_s)
        except BaseException:
            connection.close()
            raise

    def _make(self, config: AtlasConfig, tokenizers: Tokenizing | None, clock_s: Callable[[], float]) -> None:
        at, connection = config.index, self._connection
        write_s = at.server.write_timeout_ms / 1000
        board = Board(connection, at.server.namespace, timeout_s=write_s)
        seed = config.hash_seed
        if seed is None:  # else it goes on where the server is down: the writer looks when it is up
            seed = agreed_seed(board, config.algorithm, None)
        numbers = LeasedNumbers(rest_s=at.sharing.lane_rest_s, clock_s=clock_s)
        numbers.lease([(0, NUMBERS)], [(0, NUMBERS)])
        self.mirror = FleetMirror(
            config,
            GatheringOutlet(bytes_max=at.sharing.gathered_bytes_max),
            numbers,
            hash_seed=seed,
            clock_s=clock_s,
        )
        index = RemoteIndex(connection, at.server)
        keyed = Keyed(config.algorithm, seed, config.tier_weights)
        board_read = Board(connection, at.server.namespace)
        reading = RemoteReading(
            board_read,
            index,
            keyed,
            at.sharing,
            clock_s,
            agree=lambda: Keyed(*known_seed(board_read, seed), config.tier_weights),
            is_alone=False,
        )
        self.reads = RemoteAtlas(reading, tokenizers=tokenizers)
        self.look = self.reads.look
        self.set_serving = self.reads.set_serving
        self.serving_pods = self.reads.serving_pods
        is_kept = config.hash_seed is None
        self.writer = RemoteWriter(
            self.mirror,
            index,
            board,
            at.sharing,
            name=at.name or f"{socket.gethostname()}:{os.getpid()}",
            agree=lambda: confirm_seed(board, config.algorithm, seed, is_kept=is_kept),
            told=reading.wake,
            clock_s=clock_s,
        ).start()

    @property
    def serving_version(self) -> Hashable:
        """As `Atlas.serving_version`."""
        return self.reads.serving_version

    def status(self) -> IndexStatus:
        """How the index stands to its server."""
        return index_status(self.writer, self.reads)

    def close(self) -> None:
        """End the session, and let go of the connection. Twice is fine."""
        self.writer.stop()
        self.reads.close()
        self.mirror.close()
        self._connection.close()
