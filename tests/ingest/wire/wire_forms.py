"""Every way to write one value as msgpack, the long ones that encoders never choose included."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_INT_FORMATS = {
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}

NIL = b"\xc0"
FALSE = b"\xc2"
TRUE = b"\xc3"
NEVER_USED = b"\xc1"


def int_forms(value: int) -> list[bytes]:
    """All encodings of an int in -2^63 .. 2^64 - 1."""
    forms = [bytes([value & 0xFF])] if -32 <= value <= 127 else []
    for first, layout in _INT_FORMATS.items():
        bits = 8 * struct.calcsize(layout)
        low, high = (0, 1 << bits) if layout[1].isupper() else (-1 << bits - 1, 1 << bits - 1)
        if low <= value < high:
            forms.append(bytes([first]) + struct.pack(layout, value))
    return forms


def float_forms(value: float) -> list[bytes]:
    """As a double, and as a single where that holds the same number."""
    forms = [b"\xcb" + struct.pack(">d", value)]
    try:
        single = struct.pack(">f", value)
    except OverflowError:
        return forms
    if struct.unpack(">f", single)[0] == value:
        forms.append(b"\xca" + single)
    return forms


def str_forms(text: str) -> list[bytes]:
    """Lone surrogates become the bytes they stand for."""
    body = text.encode("utf-8", "surrogateescape")
    fixed = [bytes([0xA0 | len(body)]) + body] if len(body) < 32 else []
    return fixed + [header + body for header in _headers(len(body), {1: 0xD9, 2: 0xDA, 4: 0xDB})]


def bin_forms(body: bytes) -> list[bytes]:
    return [header + body for header in _headers(len(body), {1: 0xC4, 2: 0xC5, 4: 0xC6})]


def array_forms(elements: Sequence[bytes]) -> list[bytes]:
    body = b"".join(elements)
    n = len(elements)
    fixed = [bytes([0x90 | n]) + body] if n < 16 else []
    return fixed + [header + body for header in _headers(n, {2: 0xDC, 4: 0xDD})]


def map_forms(pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    body = b"".join(key + value for key, value in pairs)
    n = len(pairs)
    fixed = [bytes([0x80 | n]) + body] if n < 16 else []
    return fixed + [header + body for header in _headers(n, {2: 0xDE, 4: 0xDF})]


def ext_forms(code: int, body: bytes) -> list[bytes]:
    tail = struct.pack(">b", code) + body
    fixed_lengths = (1, 2, 4, 8, 16)
    fixed = [bytes([0xD4 + fixed_lengths.index(len(body))])] if len(body) in fixed_lengths else []
    return [first + tail for first in fixed + _headers(len(body), {1: 0xC7, 2: 0xC8, 4: 0xC9})]


def nested(depth: int, innermost: bytes = NIL) -> bytes:
    """`depth` arrays of one element inside one another."""
    return b"\x91" * depth + innermost


def array(*elements: bytes) -> bytes:
    """In the shortest form, as are the next ones."""
    return array_forms(elements)[0]


def mapping(**values: bytes) -> bytes:
    return map_forms([(text(key), value) for key, value in values.items()])[0]


def text(value: str) -> bytes:
    return str_forms(value)[0]


def integer(value: int) -> bytes:
    return int_forms(value)[0]


def integers(*values: int) -> bytes:
    return array(*map(integer, values))


def binary(body: bytes) -> bytes:
    return bin_forms(body)[0]


def number(value: float) -> bytes:
    return float_forms(value)[0]


def _headers(length: int, first_by_width: dict[int, int]) -> list[bytes]:
    return [
        bytes([first]) + length.to_bytes(width, "big")
        for width, first in first_by_width.items()
        if length < 1 << 8 * width
    ]
