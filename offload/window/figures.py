"""What a window did, and how it stands."""

from __future__ import annotations

import msgspec

from kvatlas.offload._native import SlotStatistics


class WindowStatistics(msgspec.Struct, frozen=True):
    """Counters since the start, and how things stand now."""

    slots: SlotStatistics
    hits: int
    """Chunks found by lookups; once a request and step."""
    cut_lookups: int
    """Lookups that were MISS because the request wanted more than its share already."""
    refused_stores: int
    """Chunks that found no room, and may be offered again."""
    written: int
    """Chunks that were written, or were in the store already."""
    loaded: int
    failed_loads: int
    """Chunks from the store."""
    postponed_loads: int
    gave_up: int
    """Requests that computed what they had waited too long for."""
    expired_holds: int
    failed_device_loads: int
    failed_device_stores: int
    """Transfers of workers."""
    broken_promises: int
    dropped_changes: int
    """Chunks whose coming or going was not announced."""
    loading: int
    writing: int
    waiting: int
    held: int
    transfers: int
    abandoned: int
