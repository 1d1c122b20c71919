"""What the fields of llm-d's hashes say in lanes, remembered: a fleet has few different ones."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from kvatlas.index.remote.llmd.entries import decode_entry
from kvatlas.index.remote.llmd.lane_names import LaneNames

Holders = tuple[tuple[int, int], ...]
"""(lane, tier bits), ascending by lane."""


class FieldReader:
    """Fields to lanes and tiers. Any thread may call any method.

    At most `remembered_max` fields are remembered; beyond, all are forgotten and read again.
    """

    def __init__(self, names: LaneNames, remembered_max: int = 1 << 16) -> None:
        self._names = names
        self._remembered_max = remembered_max
        self._lock = threading.Lock()
        self._remembered: dict[bytes, tuple[int, int] | None] = {}
        self._names_then = names.changes
        self._counts: dict[str, int] = dict.fromkeys(
            ("unreadable_fields", "nobodys_fields", "unknown_tiers", "forgettings"), 0
        )

    def copy(self, field: bytes) -> tuple[int, int] | None:
        """Lane and tier bit of one field; None where it says nothing, or of nobody here."""
        with self._lock:
            return self._copy(field)

    def holders(self, fields: Iterable[bytes]) -> Holders:
        """All that the fields of one block say."""
        masks: dict[int, int] = {}
        with self._lock:
            for field in fields:
                copy = self._copy(field)
                if copy is not None:
                    masks[copy[0]] = masks.get(copy[0], 0) | copy[1]
        return tuple(sorted(masks.items()))

    def statistics(self) -> dict[str, int]:
        """Different fields: unreadable, of nobody here, of tiers we have no name for; and how often all were
        forgotten. A field is counted once while it is remembered."""
        with self._lock:
            return dict(self._counts)

    def _copy(self, field: bytes) -> tuple[int, int] | None:
        if self._names_then != self._names.changes:
            self._names_then = self._names.changes
            self._remembered.clear()
        try:
            return self._remembered[field]
        except KeyError:
            pass
        if len(self._remembered) >= self._remembered_max:
            self._remembered.clear()
            self._counts["forgettings"] += 1
        copy = self._remembered[field] = self._read(field)
        return copy

    def _read(self, field: bytes) -> tuple[int, int] | None:
        entry = decode_entry(field)
        if entry is None:
            self._counts["unreadable_fields"] += 1
            return None
        lane = self._names.lane_of(entry.pod, entry.group)
        if lane is None:
            self._counts["nobodys_fields"] += 1
            return None
        if not entry.has_known_tier:
            self._counts["unknown_tiers"] += 1
        return lane, entry.tier_bit
