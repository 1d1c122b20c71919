"""An atlas whose index lies in a server: its mirrors write there, and its reads see what all have written."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from kvatlas.index.prompts import Tokenizing
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.common_keys import agreed_seed, confirm_seed, known_seed
from kvatlas.index.remote.fleet.now import Keyed
from kvatlas.index.remote.fleet.reading import RemoteReading
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from kvatlas.ingest.remote_writer import RemoteWriter
from kvatlas.ingest.server_home import ServerHome

NUMBERS = 65_504
"""Its own, of lanes and of workers; what they are in the server is its session's."""


class RemoteHome(ServerHome[RemoteWriter]):
    """An index in kvatlas's own format."""

    def __init__(
        self, config: AtlasConfig, tokenizers: Tokenizing | None, clock_s: Callable[[], float]
    ) -> None:
        """Raises ConfigError without redis-py, or where others in the index key otherwise.

        RemoteIndexError when `hash_seed` is not given and the server, which has it, cannot be asked.
        """
        at = config.index
        connection = RemoteConnection(at.server)
        with contextlib.ExitStack() as opened:
            opened.callback(connection.close)
            board = Board(connection, at.server.namespace, timeout_s=at.server.write_timeout_ms / 1000)
            seed = config.hash_seed
            if seed is None:  # else it goes on where the server is down: the writer looks when it is up
                seed = agreed_seed(board, config.algorithm, None)
            numbers = LeasedNumbers(rest_s=at.sharing.lane_rest_s, clock_s=clock_s)
            numbers.lease([(0, NUMBERS)], [(0, NUMBERS)])
            outlet = GatheringOutlet(bytes_max=at.sharing.gathered_bytes_max)
            mirror = FleetMirror(config, outlet, numbers, hash_seed=seed, clock_s=clock_s)
            index = RemoteIndex(connection, at.server)
            reading = _reading_of(connection, index, config, seed, clock_s)
            opened.callback(reading.close)
            writer = RemoteWriter(
                mirror,
                index,
                board,
                at.sharing,
                name=at.name or f"{socket.gethostname()}:{os.getpid()}",
                agree=lambda: confirm_seed(board, config.algorithm, seed, is_kept=config.hash_seed is None),
                told=reading.wake,
                clock_s=clock_s,
            )
            reads = RemoteAtlas(reading, tokenizers=tokenizers)
            super().__init__(connection, mirror, reads, writer.start())
            opened.pop_all()


def _reading_of(
    connection: RemoteConnection,
    index: RemoteIndex,
    config: AtlasConfig,
    seed: str,
    clock_s: Callable[[], float],
) -> RemoteReading:
    board = Board(connection, config.index.server.namespace)
    return RemoteReading(
        board,
        index,
        Keyed(config.algorithm, seed, config.tier_weights),
        config.index.sharing,
        clock_s,
        agree=lambda: Keyed(*known_seed(board, seed), config.tier_weights),
        is_alone=False,
    )
