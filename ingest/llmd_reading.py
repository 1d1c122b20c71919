"""What an atlas knows of a fleet whose index is llm-d's: its own workers, and pods that were read of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.reading import PromptReader
from kvatlas.index.remote.fleet.matching import Fetching
from kvatlas.index.remote.fleet.now import Keyed, Now, RemoteReaderStatus
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_mirror import FleetMirror


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
        self._made: tuple[Hashable, Now] = (None, self._make())
        """Of which versions, and what."""

    @property
    def now(self) -> Now:
        """Made anew where something has changed."""
        versions = self._mirror.part_version, self._names.version  # before: what changes meanwhile is news
        made_of, now = self._made
        if made_of != versions:
            now = self._make()
            self._made = versions, now
        return now

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
            if self._failed_since_s is None:
                self._failed_since_s = self._clock_s()

    def _make(self) -> Now:
        own = self._mirror.part()
        models = list(own.block_sizes) or list(self._config.models)
        parts = [own]
        if len(models) == 1:
            parts.append(self._names.part(models[0], own.block_sizes.get(models[0], 0)))
        keyed = Keyed(self._config.algorithm, self._config.hash_seed or "", self._config.tier_weights)
        fleet = FleetView.of(parts, algorithm=keyed.algorithm, hash_seed=keyed.hash_seed)
        return Now.of(fleet, self._fetching, keyed, is_whole=True)
