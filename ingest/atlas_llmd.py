"""An atlas whose index llm-d reads and writes, too, in one server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from kvatlas.index.prompts import Tokenizing
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.atlas_remote import NUMBERS
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.llmd_engine_keys import EngineKeyOutlet, EngineKeyTelling
from kvatlas.ingest.llmd_reading import LlmdReading
from kvatlas.ingest.llmd_writer import LlmdWriter
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from kvatlas.ingest.server_home import ServerHome

_OWN = [(0, NUMBERS - 5000)]
"""Lanes above are those of pods that are only read of."""


class LlmdHome(ServerHome[LlmdWriter]):
    """An index that llm-d shares."""

    def __init__(
        self,
        config: AtlasConfig,
        tokenizers: Tokenizing | None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ConfigError without redis-py. `hash_seed` None is llm-d's default, the empty one."""
        at = config.index
        connection = RemoteConnection(at.server)
        with contextlib.ExitStack() as opened:
            opened.callback(connection.close)
            numbers = LeasedNumbers(rest_s=at.sharing.lane_rest_s, clock_s=clock_s)
            numbers.lease(_OWN, _OWN)
            bytes_max = at.sharing.gathered_bytes_max
            outlet = EngineKeyOutlet(bytes_max) if at.engine_keys else GatheringOutlet(bytes_max)
            mirror = FleetMirror(config, outlet, numbers, hash_seed=config.hash_seed or "", clock_s=clock_s)
            engine_keys = None
            if isinstance(outlet, EngineKeyOutlet):
                engine_keys = EngineKeyTelling(outlet.engine_keys, connection, mirror.mirrors)
            index = LlmdIndex(connection, at.server, LaneNames(discovers=True))
            reads = RemoteAtlas(LlmdReading(mirror, index, config, clock_s), tokenizers=tokenizers)
            writer = LlmdWriter(mirror, index, connection, at.sharing, clock_s, engine_keys=engine_keys)
            super().__init__(connection, mirror, reads, writer.start())
            opened.pop_all()
