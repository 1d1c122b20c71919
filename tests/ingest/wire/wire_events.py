"""Single events and the batches around them, as bytes."""

from __future__ import annotations

from tests.ingest.wire import wire_forms as wire

TS = wire.number(1.5)
CLEARED = wire.array(wire.text("AllBlocksCleared"))


def batch_of(*events: bytes) -> bytes:
    """An array of three: time, events, rank 0."""
    return wire.array(TS, wire.array(*events), wire.integer(0))


def stored(**fields: bytes) -> bytes:
    """A map: one block named 1, and what is given."""
    first = {"type": wire.text("BlockStored"), "block_hashes": wire.integers(1)}
    return wire.mapping(**first | fields)


def removed(**fields: bytes) -> bytes:
    first = {"type": wire.text("BlockRemoved"), "block_hashes": wire.integers(1)}
    return wire.mapping(**first | fields)
