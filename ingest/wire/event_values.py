"""Reads the values of the fields of batches and events.

Each function takes a reader that stands before the value, and leaves it behind the value. One that
breaks the rules raises BadValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from kvatlas.ingest.wire.events import ExtraKey
from kvatlas.ingest.wire.msgpack_reader import MsgpackReader

DATA_PARALLEL_RANK_MAX = 0xFFFF
TOKEN_ID_MAX = 0xFFFFFFFF
GROUP_IDX_MAX = 63
LENGTH_TOKENS_MAX = 0x7FFFFFFF
_NIL = b"\xc0"
_U64_MASK = 0xFFFFFFFFFFFFFFFF
_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1

_T = TypeVar("_T")


class BadValueError(Exception):
    """A value is not what its field holds. Stays inside the decoder."""

    def __init__(self, expected: str, got: str, path: str = "") -> None:
        self.path = path
        """From the event to the value; whoever knows a part of it puts that in front."""
        self.expected = expected
        self.got = got
        super().__init__(expected, got)


class EventFields:
    """The fields of one event by name, each still msgpack."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def read(self, name: str, read_value: Callable[[MsgpackReader], _T]) -> _T:
        """The value of a field, of nil where it is missing; its errors say which field."""
        try:
            return read_value(MsgpackReader(self._values.get(name, _NIL)))
        except BadValueError as bad:
            bad.path = f".{name}{bad.path}"
            raise


def read_ts(reader: MsgpackReader) -> float | None:
    """A batch's time; None: it is no number, which harms nothing."""
    kind = reader.peek_kind()
    if kind == "float":
        return reader.read_float()
    if kind == "int":
        return float(reader.read_int())
    reader.skip()
    return None


def read_rank(reader: MsgpackReader) -> int | None:
    """A batch's data-parallel rank; None: it is no number that a rank can be."""
    if reader.peek_kind() != "int":
        reader.skip()
        return None
    rank = reader.read_int()
    return rank if 0 <= rank <= DATA_PARALLEL_RANK_MAX else None


def read_tag(reader: MsgpackReader) -> str:
    """The type of an event."""
    kind = reader.peek_kind()
    if kind != "str":
        raise BadValueError("a str", kind)
    return reader.read_str()


def read_str_or_none(reader: MsgpackReader) -> str | None:
    if reader.read_nil():
        return None
    kind = reader.peek_kind()
    if kind != "str":
        raise BadValueError("a str or nil", kind)
    return reader.read_str()


def read_inventory(reader: MsgpackReader) -> Literal["begin", "end"] | None:
    """One of these words; None for anything else."""
    word = reader.read_str() if reader.peek_kind() == "str" else ""
    if word == "begin":
        return "begin"
    return "end" if word == "end" else None


def read_int_or_none(reader: MsgpackReader, low: int = _I64_MIN, high: int = _U64_MASK) -> int | None:
    """An int from `low` to `high`; without these, any that msgpack can hold."""
    if reader.read_nil():
        return None
    return _read_int(reader, low, high, " or nil")


def read_group(reader: MsgpackReader) -> int:
    """A group's number; nil is the first one, the only one of older servers."""
    return read_int_or_none(reader, 0, GROUP_IDX_MAX) or 0


def read_length_or_none(reader: MsgpackReader) -> int | None:
    """A number of tokens."""
    return read_int_or_none(reader, 0, LENGTH_TOKENS_MAX)


def read_length(reader: MsgpackReader) -> int:
    """A number of tokens; nil is 0."""
    return read_length_or_none(reader) or 0


def read_hash_or_none(reader: MsgpackReader) -> int | None:
    """The hash of a parent: nil and zero both mean that there is none."""
    if reader.read_nil():
        return None
    return _read_hash(reader, "an int, bytes or nil") or None


def read_hashes(reader: MsgpackReader) -> tuple[int, ...]:
    return _read_array(reader, _read_hash, "an array")


def read_token_ids(reader: MsgpackReader) -> tuple[int, ...]:
    if reader.read_nil():
        return ()
    return _read_array(reader, _read_token_id, "an array or nil")


def read_lora_name(reader: MsgpackReader) -> tuple[str | None, str | None]:
    """LoRA name and cache salt: SGLang puts a map with the salt where the name should be."""
    if reader.peek_kind() != "map":
        return read_str_or_none(reader), None
    salt: str | None = None
    for _ in range(reader.read_map_header()):
        if reader.read_key() != "cache_salt":
            reader.skip()
        elif reader.peek_kind() == "str":
            salt = reader.read_str()
        else:
            salt = None
            reader.skip()
    return None, salt


def read_extra_keys(reader: MsgpackReader) -> tuple[tuple[ExtraKey, ...] | None, ...] | None:
    """One list a block, or nil where it has none; None: nothing is said of any block."""
    if reader.read_nil():
        return None
    return _read_array(reader, _read_block_extras, "an array or nil")


def _read_array(
    reader: MsgpackReader, read_element: Callable[[MsgpackReader], _T], expected: str
) -> tuple[_T, ...]:
    kind = reader.peek_kind()
    if kind != "array":
        raise BadValueError(expected, kind)
    values: list[_T] = []
    try:
        for _ in range(reader.read_array_header()):
            values.append(read_element(reader))
    except BadValueError as bad:
        bad.path = f"[{len(values)}]{bad.path}"
        raise
    return tuple(values)


def _read_int(reader: MsgpackReader, low: int, high: int, alternative: str = "") -> int:
    kind = reader.peek_kind()
    if kind != "int":
        raise BadValueError(f"an int{alternative}", kind)
    value = reader.read_int()
    if not low <= value <= high:
        raise BadValueError(f"an int from {low} to {high}{alternative}", str(value))
    return value


def _read_token_id(reader: MsgpackReader) -> int:
    return _read_int(reader, 0, TOKEN_ID_MAX)


def _read_hash(reader: MsgpackReader, expected: str = "an int or bytes") -> int:
    """An unsigned 64-bit number, a signed one's two's complement, or the last 8 bytes of many."""
    kind = reader.peek_kind()
    if kind == "int":
        return reader.read_int() & _U64_MASK
    if kind != "bin":
        raise BadValueError(expected, kind)
    digest = reader.read_bin()
    if not digest:
        raise BadValueError(expected, "an empty bin")
    return int.from_bytes(digest[-8:], "big")


def _read_block_extras(reader: MsgpackReader) -> tuple[ExtraKey, ...] | None:
    if reader.read_nil():
        return None
    return _read_array(reader, _read_extra_key, "an array or nil")


def _read_extra_key(reader: MsgpackReader) -> ExtraKey:
    kind = reader.peek_kind()
    if kind == "str":
        return reader.read_str()
    if kind == "bin":
        return reader.read_bin()
    # Its place in `reader` does not depend on how far it is understood.
    return _read_pair(MsgpackReader(reader.read_raw()))


def _read_pair(reader: MsgpackReader) -> tuple[str, int] | None:
    """A multimodal identifier and its offset; None: something else."""
    if reader.peek_kind() != "array" or reader.read_array_header() < 2:
        return None
    if reader.peek_kind() != "str":
        return None
    identifier = reader.read_str()
    if reader.peek_kind() != "int":
        return None
    offset = reader.read_int()
    return (identifier, offset) if offset <= _I64_MAX else None
