"""An atlas whose index llm-d reads and writes, too, in one server."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Hashable

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.prompts import Tokenizing
from kvatlas.index.reading import PromptReader
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.matching import Fetching, RemoteMatcher
from kvatlas.index.remote.fleet.reading import Now, RemoteReaderStatus
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.atlas_remote import NUMBERS, IndexStatus, index_status
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.llmd_engine_keys import EngineKeyOutlet, EngineKeyTelling
from kvatlas.ingest.llmd_writer import LlmdWriter
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet

_CHANGES = itertools.count(1)
_OWN = [(0, NUMBERS - 5000)]
"""Lanes above are those of pods that are only read of."""


class LlmdReading:
    """This atlas's own workers, and pods that were read of, whose state is BLIND.

    Which model such a pod serves is nowhere in llm-d's format: it is the atlas's, where that has only
    one; with several, pods that are only read of are left out.
    """

    def __init__(
        self, mirror: FleetMirror, index: LlmdIndex, config: AtlasConfig, clock_s: Callable[[], float]
    ) -> None:
        self._mirror = mirror
        self._names = index.names
        self._config = config
        self._clock_s = clock_s
        self._counts: Counter[str] = Counter()
        self._failed_since_s: float | None = None
        self._says = ""
        self._fetching = Fetching(index, self._noticed)
        self._seen: Hashable = None
        self._now = self._make()

    @property
    def now(self) -> Now:
        """Made anew where something has changed."""
        if self._seen != (self._mirror.part_version, self._names.version):
            self._now = self._make()
        return self._now

    @property
    def is_trusted(self) -> bool:
        return self._failed_since_s is None

    @property
    def age_s(self) -> float:
        """Own workers are known at first hand."""
        return 0.0

    def believed(self) -> PromptReader[FleetView]:
        return self.now.reader if self.is_trusted else self.now.distrusted

    def refresh(self) -> None:
        """Nothing is known but what is read."""

    def status(self) -> RemoteReaderStatus:
        since_s = self._failed_since_s
        silent_s = 0.0 if since_s is None else self._clock_s() - since_s
        return RemoteReaderStatus(
            is_reached=since_s is None,
            is_trusted=self.is_trusted,
            says=f"index server not reached for {silent_s:.1f} s: {self._says}"
            if since_s is not None
            else "",
            age_s=0.0,
            sessions={},
            n_workers=len(self.now.fleet.names),
            is_whole=since_s is None,
            counts=dict(self._counts),
        )

    def close(self) -> None:
        """It has no thread."""

    def _noticed(self, error: RemoteIndexError | None) -> None:
        if error is None:
            self._failed_since_s = None
        else:
            self._counts["failed_fetches"] += 1
            self._says = str(error)
            self._failed_since_s = self._failed_since_s or self._clock_s()

    def _make(self) -> Now:
        self._seen = self._mirror.part_version, self._names.version
        own = self._mirror.part()
        models = list(own.block_sizes) or list(self._config.models)
        parts = [own]
        if len(models) == 1:
            parts.append(self._names.part(models[0], own.block_sizes.get(models[0], 0)))
        seed = self._config.hash_seed or ""
        fleet = FleetView.of(parts, algorithm=self._config.algorithm, hash_seed=seed)
        matcher = RemoteMatcher(self._fetching, fleet.roster, is_whole=True)
        says = "the index server is not reached (until it is)"
        reader, distrusted = (
            PromptReader(
                told, matcher, algorithm=self._config.algorithm, tier_weights=self._config.tier_weights
            )
            for told in (fleet, fleet.degraded(says))
        )
        return Now(fleet, reader, distrusted, matcher, next(_CHANGES))


class LlmdHome:
    """The parts of an atlas that differ where its index is llm-d's. Ends with `close`."""

    def __init__(
        self,
        config: AtlasConfig,
        tokenizers: Tokenizing | None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ConfigError without redis-py. `hash_seed` None is llm-d's default, the empty one."""
        at = config.index
        self._connection = connection = RemoteConnection(at.server)
        numbers = LeasedNumbers(rest_s=at.sharing.lane_rest_s, clock_s=clock_s)
        numbers.lease(_OWN, _OWN)
        bytes_max = at.sharing.gathered_bytes_max
        outlet = EngineKeyOutlet(bytes_max) if at.engine_keys else GatheringOutlet(bytes_max)
        self.mirror = FleetMirror(
            config,
            outlet,
            numbers,
            hash_seed=config.hash_seed or "",
            clock_s=clock_s,
        )
        engine_keys = None
        if isinstance(outlet, EngineKeyOutlet):
            engine_keys = EngineKeyTelling(outlet.engine_keys, connection, self.mirror.mirrors)
        index = LlmdIndex(connection, at.server, LaneNames(discovers=True))
        self.reads = RemoteAtlas(LlmdReading(self.mirror, index, config, clock_s), tokenizers=tokenizers)
        self.look = self.reads.look
        self.set_serving = self.reads.set_serving
        self.serving_pods = self.reads.serving_pods
        self.writer = LlmdWriter(
            self.mirror, index, connection, at.sharing, clock_s, engine_keys=engine_keys
        ).start()

    @property
    def serving_version(self) -> Hashable:
        """As `Atlas.serving_version`."""
        return self.reads.serving_version

    def status(self) -> IndexStatus:
        """How the index stands to its server."""
        return index_status(self.writer, self.reads)

    def close(self) -> None:
        """Take what it has written away, and let go of the connection. Twice is fine."""
        self.writer.stop()
        self.reads.close()
        self.mirror.close()
        self._connection.close()
