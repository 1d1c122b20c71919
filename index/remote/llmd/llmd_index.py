"""An index in Redis or Valkey as llm-d keeps it: its readers and writers, and ours, share one server."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Excerpt, Index, Roster, Table, content_of, deltas_of, lanes_of
from kvatlas.index.deltas import clear_lanes, require_lanes
from kvatlas.index.errors import InputError
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.llmd.answers import Held, decimal, excerpt_of
from kvatlas.index.remote.llmd.fields import FieldReader
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.server import LlmdServer
from kvatlas.index.remote.llmd.sweep import Swept, content, sweep
from kvatlas.index.remote.llmd.writing import Changes, changes_of
from kvatlas.index.shards import Matches, Strategy, match


class LlmdIndex:
    """A `BlockIndex` in llm-d's format (docs/llmd_format.md). Any thread may call any method.

    What the format has no place for: segments (an export can be loaded into indexes of one shard, or into
    another of this kind), closed lanes, several changes at one instant, lists of what a lane holds (so
    emptying one goes through all blocks of the server). One process writes a lane.

    Every method but `statistics` and `close` raises RemoteIndexError when the server cannot be used; what
    was being changed is then changed in part, and doing it again is safe.
    """

    n_shards = 1

    def __init__(
        self,
        connection: RemoteConnection,
        settings: RemoteSettings,
        names: LaneNames | None = None,
        roster: Roster | None = None,
        *,
        fields_max: int = 8192,
        content_bytes_max: int = 1 << 34,
    ) -> None:
        """`fields_max`: copies of a block; one with more counts as nobody's.

        `content_bytes_max`: memory for what `replace`, `load` and `export` compare with.
        """
        self.names = names if names is not None else LaneNames()
        self.roster = roster if roster is not None else Roster()
        self._connection = connection
        self._content_bytes_max = content_bytes_max
        write_s = settings.write_timeout_ms / 1000
        self._page_s = write_s
        self._server = LlmdServer(
            connection, read_s=settings.timeout_ms / 1000, write_s=write_s, fields_max=fields_max
        )
        self._reader = FieldReader(self.names)
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(
            ("wrong_type_keys", "oversized_keys", "left_out_blocks", "sweeps"), 0
        )
        self._in_roster: set[int] = set()

    # Writing.

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Apply delta records, one buffer: a round trip for each 16 384 blocks, a sweep for clears.

        Raises InputError, and applies nothing, when it is malformed or names a lane without a name.
        """
        if len(deltas) != 1:
            raise InputError(f"deltas: expected 1 buffer, got {len(deltas)}")
        with self._writing:
            told = changes_of(deltas[0], self.names)
            if told.emptied:
                self._sweep(told.emptied, None)
            self._write(told)

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta leaves in empty ones.

        First what is new is added, then a sweep takes what is too much. Raises InputError as `apply`, and
        for a record of another lane.
        """
        require_lanes(delta, lanes)
        wanted = frozenset(lanes)
        for lane in lanes_of(clear_lanes(wanted)):
            if not self.names.is_left_out(lane):
                self.names.name_of(lane)
        with self._writing, closing(Table(budget_bytes=self._content_bytes_max)) as keep:
            keep.apply(delta)
            self._write(changes_of(delta, self.names))
            self._sweep(wanted, keep)

    def remove_lane(self, lane: int) -> None:
        """Nothing is held by the lane any more; of a discovered one: by its pod. One sweep."""
        self.apply([clear_lanes([lane])])

    def remove_lanes(self, lanes: Iterable[int]) -> None:
        """The same of several lanes: one sweep."""
        self.apply([clear_lanes(lanes)])

    # Reading.

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """As `ShardedIndex.match`; one round trip. Pods that it discovers are in the answer."""
        excerpt = self.fetch([keys])
        self._enrol()
        index = Index([excerpt], self.roster)
        return match(index, keys, allowed, prompt_tokens, block_size_tokens, strategy, excerpt.whole)

    def fetch(self, parts: Sequence[npt.NDArray[np.uint64]]) -> Excerpt:
        """What the server knows of some prompts' keys, to be matched with any roster: one round trip."""
        keys = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        held = self._held(keys)
        return Excerpt([keys], [excerpt_of(held, len(keys), self._reader)])

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """For each key, the lanes that hold it and their tier bits."""
        held = self._held(keys)
        told = [list(self._reader.holders(fields)) for fields in held.sets]
        return [list(told[number]) if number >= 0 else [] for number in held.numbers()]

    # Moving.

    def export(self) -> Iterator[bytes]:
        """All that lanes with names hold, as content records of which the segments are not known.

        Each block as it was at some moment meanwhile. One sweep, which goes on as records are taken.
        """
        self._count(sweeps=1)
        return content(self._server, self._reader, self._page_s, self._passed_over)

    def load(self, content: Iterable[bytes]) -> None:
        """Every lane that the records name becomes what they say, others stay: as `replace`.

        Not all or nothing. Raises DumpError for what is no content, InputError for a lane without a name.
        """
        lanes: set[int] = set()
        with self._writing, closing(Table(budget_bytes=self._content_bytes_max)) as keep:
            for section in content:
                delta = deltas_of(section)[0]
                told = changes_of(delta, self.names)
                keep.apply(delta)
                lanes.update(content_of(section).lanes)
                self._write(told)
            if lanes:
                self._sweep(frozenset(lanes), keep)

    def statistics(self) -> list[dict[str, Any]]:
        """Keys and fields that were passed over, sweeps, pods without a lane. Asks nobody."""
        with self._counting:
            counts = dict(self._counts)
        names = {"discovered_pods": len(self.names.discovered()), "refused_pods": self.names.refused}
        return [{**counts, **self._reader.statistics(), **names}]

    def close(self) -> None:
        """Nothing is held that must be given back; the connection is its owner's."""

    def _held(self, keys: npt.NDArray[np.uint64]) -> Held:
        held = self._server.held(decimal(keys))
        self._passed_over(Swept(held.wrong_type, held.oversized))
        return held

    def _write(self, told: Changes) -> None:
        wrong_type = self._server.change(told.changes)
        self._count(wrong_type_keys=wrong_type, left_out_blocks=told.left_out_blocks)

    def _sweep(self, lanes: frozenset[int], keep: Table | None) -> None:
        self._count(sweeps=1)
        self._passed_over(sweep(self._server, self._reader, lanes, keep, self._page_s))

    def _passed_over(self, swept: Swept) -> None:
        self._count(wrong_type_keys=swept.wrong_type, oversized_keys=swept.oversized)

    def _enrol(self) -> None:
        """Discovered pods become workers of the roster."""
        lanes = self.names.discovered().values()
        if len(lanes) == len(self._in_roster):
            return
        for lane in lanes:
            if lane not in self._in_roster:
                self.roster.set(lane, [lane], [])
                self._in_roster.add(lane)

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, by in more.items():
                self._counts[name] += by
