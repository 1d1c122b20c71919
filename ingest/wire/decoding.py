"""Decodes a batch of KV events: readable, exact about what is wrong and where, not fast.

It serves tools and is what the native decoder is tested against: both give the same on any input.
The rules:

- A batch is an array `[ts, events, data_parallel_rank, ...]` or a map with these keys; bytes behind
  it are ignored, elements and keys beyond them are stepped over. The first `events` counts; of a
  repeated `ts` or `data_parallel_rank` the last one, sound or not.
- An event is an array that begins with its type, a map with the key `type`, or a bin that holds
  one of these. A missing field is nil. Of a repeated key only the last value is looked at; keys
  that are not strings, and fields that are not known, are not looked at.
- An event that breaks these rules is left out with an EventError; one of an unknown type is left
  out and counted. Either way the rest of the batch is read.
- Where the msgpack itself breaks, what was whole before that stays. Inside a bin it breaks only
  that event.

Source: vLLM `distributed/kv_events.py`, SGLang `disaggregation/kv_events.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvatlas.index.errors import DecodeError
from kvatlas.ingest.wire.event_values import (
    BadValueError,
    EventFields,
    read_extra_keys,
    read_group,
    read_hash_or_none,
    read_hashes,
    read_int_or_none,
    read_inventory,
    read_length,
    read_length_or_none,
    read_lora_name,
    read_rank,
    read_str_or_none,
    read_tag,
    read_token_ids,
    read_ts,
)
from kvatlas.ingest.wire.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
    EventError,
)
from kvatlas.ingest.wire.msgpack_reader import BrokenMsgpackError, MsgpackReader

_BATCH_FIELDS = ("ts", "events", "data_parallel_rank")
_ARRAY_FIELDS = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
        "kv_cache_spec_kind",
        "kv_cache_spec_sliding_window",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
}
"""What follows the type in an event that is an array."""
_MAP_FIELDS = frozenset(
    (*_ARRAY_FIELDS["BlockStored"], "type", "locality", "ownership", "chunk_blocks", "inventory")
)


def decode_batch(payload: bytes) -> EventBatch:
    """Decodes the payload of one message.

    Raises DecodeError when it is not a batch: when it breaks off before its events begin, or has
    none. Time and memory grow with the length of the payload, not with the lengths it claims.
    """
    batch = _BatchDecoder(payload)
    try:
        batch.read()
    except BrokenMsgpackError as broken:
        batch.break_off(broken)
    return batch.result()


class _BatchDecoder:
    """What has been read of one batch so far."""

    def __init__(self, payload: bytes) -> None:
        self._reader = MsgpackReader(payload)
        self._ts: float | None = None
        self._rank: int | None = None
        self._n_events: int | None = None
        """Claimed by the events' header; None: not reached yet."""
        self._index = 0
        self._events: list[Event] = []
        self._errors: list[EventError] = []
        self._unknown_events = 0

    def read(self) -> None:
        """Reads all of it; after a BrokenMsgpackError, what came before stays."""
        for name in self._field_names():
            if name == "ts":
                self._ts = read_ts(self._reader)
            elif name == "events" and self._n_events is None:
                self._read_events()
            elif name == "data_parallel_rank":
                self._rank = read_rank(self._reader)
            else:
                self._reader.skip()

    def break_off(self, broken: BrokenMsgpackError) -> None:
        """Notes that the msgpack ends here; raises DecodeError when no events had begun."""
        if self._n_events is None:
            raise DecodeError(f"$: {broken}") from None
        path = f"$.events[{self._index}]" if self._index < self._n_events else "$"
        error = EventError(self._index, path, broken.expected, broken.got, "broken_payload")
        self._errors.append(error)

    def result(self) -> EventBatch:
        if self._n_events is None:
            raise DecodeError("$: expected the key events, got a map without it")
        return EventBatch(
            ts=self._ts,
            data_parallel_rank=self._rank,
            events=tuple(self._events),
            errors=tuple(self._errors),
            unknown_events=self._unknown_events,
        )

    def _field_names(self) -> Iterator[str | None]:
        """Name of each field, the reader standing before its value; None: one to step over."""
        kind = self._reader.peek_kind()
        if kind == "array":
            n_fields = self._reader.read_array_header()
            if n_fields < 2:
                raise DecodeError(f"$: expected at least 2 elements, got {n_fields}")
            for i in range(n_fields):
                yield _BATCH_FIELDS[i] if i < len(_BATCH_FIELDS) else None
        elif kind == "map":
            for _ in range(self._reader.read_map_header()):
                yield self._reader.read_key()
        else:
            raise DecodeError(f"$: expected an array or a map, got {kind}")

    def _read_events(self) -> None:
        kind = self._reader.peek_kind()
        if kind != "array":
            raise DecodeError(f"$.events: expected an array, got {kind}")
        self._n_events = self._reader.read_array_header()
        while self._index < self._n_events:
            self._decode_event(self._reader.read_raw())
            self._index += 1

    def _decode_event(self, raw: bytes) -> None:
        try:
            event = _decode_event(raw)
        except BadValueError as bad:
            path = f"$.events[{self._index}]{bad.path}"
            self._errors.append(EventError(self._index, path, bad.expected, bad.got, "bad_event"))
        else:
            if event is None:
                self._unknown_events += 1
            else:
                self._events.append(event)


def _decode_event(raw: bytes) -> Event | None:
    """One event from its whole msgpack value; None: of an unknown type."""
    tag, values = _split_event(_unwrap(raw))
    if tag == "BlockStored":
        return _decode_stored(EventFields(values))
    if tag == "BlockRemoved":
        return _decode_removed(EventFields(values))
    return _decode_cleared(EventFields(values)) if tag == "AllBlocksCleared" else None


def _unwrap(raw: bytes) -> bytes:
    """The event itself, where it comes inside a bin."""
    reader = MsgpackReader(raw)
    if reader.peek_kind() != "bin":
        return raw
    try:
        return MsgpackReader(reader.read_bin()).read_raw()
    except BrokenMsgpackError as broken:
        raise BadValueError(broken.expected, f"{broken.got} of the bin") from None


def _split_event(raw: bytes) -> tuple[str, dict[str, bytes]]:
    """An event's type, and the fields that are known by name, each still msgpack."""
    reader = MsgpackReader(raw)
    kind = reader.peek_kind()
    if kind == "array":
        n_read = min(reader.read_array_header(), 1 + len(_ARRAY_FIELDS["BlockStored"]))
        elements = [reader.read_raw() for _ in range(n_read)]
        first = {"type": elements[0]} if elements else {}
        tag = EventFields(first).read("type", read_tag)
        return tag, dict(zip(_ARRAY_FIELDS.get(tag, ()), elements[1:], strict=False))
    if kind == "map":
        values: dict[str, bytes] = {}
        for _ in range(reader.read_map_header()):
            name = reader.read_key()
            if name is not None and name in _MAP_FIELDS:
                values[name] = reader.read_raw()
            else:
                reader.skip()
        return EventFields(values).read("type", read_tag), values
    raise BadValueError("an array or a map, or a bin that holds one", kind)


def _decode_stored(fields: EventFields) -> BlockStored:
    block_hashes = fields.read("block_hashes", read_hashes)
    lora_name, cache_salt = fields.read("lora_name", read_lora_name)
    extra_keys = fields.read("extra_keys", read_extra_keys)
    if extra_keys is not None and len(extra_keys) != len(block_hashes):
        expected, got = f"{len(block_hashes)} elements", f"{len(extra_keys)}"
        raise BadValueError(expected, got, path=".extra_keys")
    return BlockStored(
        block_hashes=block_hashes,
        parent_block_hash=fields.read("parent_block_hash", read_hash_or_none),
        token_ids=fields.read("token_ids", read_token_ids),
        block_size=fields.read("block_size", read_length),
        lora_id=fields.read("lora_id", read_int_or_none),
        medium=fields.read("medium", read_str_or_none),
        lora_name=lora_name,
        cache_salt=cache_salt,
        extra_keys=extra_keys,
        group_idx=fields.read("group_idx", read_group),
        kv_cache_spec_kind=fields.read("kv_cache_spec_kind", read_str_or_none),
        kv_cache_spec_sliding_window=fields.read("kv_cache_spec_sliding_window", read_length_or_none),
        locality=fields.read("locality", read_str_or_none),
        ownership=fields.read("ownership", read_str_or_none),
        chunk_blocks=fields.read("chunk_blocks", read_length),
    )


def _decode_cleared(fields: EventFields) -> AllBlocksCleared:
    """Nothing in it can be wrong: anything else than the two words says nothing."""
    return AllBlocksCleared(fields.read("inventory", read_inventory))


def _decode_removed(fields: EventFields) -> BlockRemoved:
    return BlockRemoved(
        block_hashes=fields.read("block_hashes", read_hashes),
        medium=fields.read("medium", read_str_or_none),
        group_idx=fields.read("group_idx", read_group),
        locality=fields.read("locality", read_str_or_none),
        ownership=fields.read("ownership", read_str_or_none),
    )
