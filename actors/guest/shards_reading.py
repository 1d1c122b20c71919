"""Matches over the shards of a cluster by a roster of one's own, wherever the shards lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvatlas.actors.orders import ClusterView, Layout
from kvatlas.actors.reading.replicas import OpenLink, Replicas
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.reading.shard_sources import ShardSources, TablesIndex
from kvatlas.index._native import Roster
from kvatlas.index.errors import ClusterError, TableFileError

Keys = npt.NDArray[np.uint64]
T = TypeVar("T")
_LOOKS_MAX = 4


class ShardsReading:
    """Any thread may call any method. A shard that nobody can be asked for counts as empty, and matches
    say so (`Matches.is_whole`)."""

    def __init__(
        self, node_id: str, open_link: OpenLink, roster: Roster, settings: ReaderSettings | None = None
    ) -> None:
        """`node_id`: of the own node; tables there are looked at in shared memory."""
        self._replicas = Replicas(node_id, open_link, settings or ReaderSettings())
        self._roster = roster
        self._lock = threading.Lock()
        self._layout: Layout | None = None
        self._sources: ShardSources | None = None

    def follow(self, view: ClusterView) -> None:
        """Read the shards of this view."""
        with self._lock:
            self._layout = view.serving
            self._sources = self._replicas.choose(view.serving)
            self._replicas.tend(time.monotonic())

    @property
    def layout(self) -> Layout:
        """Raises ClusterError before the first view."""
        if self._layout is None:
            raise ClusterError("cluster: expected a view of its shards, none has come yet")
        return self._layout

    def look(self, keys: Keys, seen: Callable[[TablesIndex], T]) -> T:
        """What is seen of a chain [n_blocks] in the shards. Raises ClusterError before the first view."""
        for _ in range(_LOOKS_MAX):
            sources = self._known()
            answers = {shard: answer.result() for shard, answer in sources.ask([keys]).items()}
            if None in answers.values():
                self._tend()  # whoever was down is looked for; the next look sees it
            index = TablesIndex(sources, self._roster, answers)
            try:
                return seen(index)
            except TableFileError:  # its writer is gone
                self._choose_again(sources)
        return seen(TablesIndex(ShardSources(self._known().n_shards, {}, {}), self._roster))

    def _known(self) -> ShardSources:
        sources = self._sources
        if sources is None:
            raise ClusterError("cluster: expected a view of its shards, none has come yet")
        return sources

    def _tend(self) -> None:
        with self._lock:
            self._replicas.tend(time.monotonic())

    def _choose_again(self, seen: ShardSources) -> None:
        with self._lock:
            if self._sources is seen and self._replicas.find_stale() and self._layout is not None:
                self._sources = self._replicas.choose(self._layout)

    def close(self) -> None:
        """Let go of tables and links. Twice is fine."""
        with self._lock:
            self._sources = None
            self._replicas.close()
