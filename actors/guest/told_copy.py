"""What a guest of a cluster has told: kept, so that shards that are new or have missed something can be
told again.

A subscriber has its mirrors for that; whoever writes delta records by hand has nothing but these.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvatlas.actors.guest.content_records import ContentRecords, records_of
from kvatlas.index._native import Table, load_content, snapshot
from kvatlas.index.deltas import clear_lanes, require_lanes
from kvatlas.index.view import FleetPart
from kvatlas.ingest._native import DeltaLog
from kvatlas.ingest.fleet_mirror import Content

_LOG_BYTES_MAX = 64 << 20


class ToldCopy:
    """A table in private memory of all that one session holds, and the changes that nobody has taken yet.

    An `Outbox` takes from it as from a `FleetMirror`. Any thread may call any method.
    """

    def __init__(self, bytes_max: int = 1 << 30) -> None:
        """`bytes_max`: of the copy. Beyond, segments are dropped as in any table, and shards that are loaded
        anew do not get them."""
        self.lock = threading.RLock()
        self.changed = threading.Event()
        self.part_version = 0
        self._part = FleetPart()
        self._table = Table(budget_bytes=bytes_max)
        self._log = DeltaLog(_LOG_BYTES_MAX)

    # What the guest tells.

    def tell(self, delta: bytes) -> None:
        """Delta records of any shard, in order. Raises InputError, and tells nothing, when malformed."""
        with self.lock:
            self._table.apply(delta)
            self._log.append(delta)
        self.changed.set()

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta leaves in empty ones.

        Raises InputError, and tells nothing, when it is malformed or names other lanes.
        """
        require_lanes(delta, lanes)
        self.tell(clear_lanes(sorted(set(lanes))) + delta)

    def load(self, sections: Sequence[bytes], lanes: Mapping[int, int] | None, told: ContentRecords) -> None:
        """As `replace` by `told`, which is what `records_of` makes of these: sections are taken faster."""
        with self.lock:
            load_content([self._table], sections, lanes)
            self._log.append(clear_lanes(told.lanes) + told.records)
        self.changed.set()

    def set_part(self, part: FleetPart) -> None:
        """Whose the lanes are, for readers."""
        with self.lock:
            self._part = part
            self.part_version += 1
        self.changed.set()

    # What an outbox takes.

    @property
    def lost(self) -> int:
        """Times that the changes which waited were too many and were dropped."""
        return self._log.lost

    def take(self) -> list[bytes]:
        """Changes since the last call, in pieces of whole records."""
        return list(iter(self._log.take, b""))

    def content(self) -> Iterator[Content]:
        """All that is held, as one: lanes change together, so none can be ahead of the others."""
        with self.lock:
            before, held = self.take(), snapshot([self._table])[0]
        told = records_of(held.sections())
        del held  # whoever loads another layout meanwhile takes one too: together they may be too many
        yield Content(*told, before)

    def part(self) -> FleetPart:
        with self.lock:
            return self._part

    def statistics(self) -> dict[str, Any]:
        """Of the copy's table."""
        return self._table.statistics()

    def close(self) -> None:
        self._table.close()
