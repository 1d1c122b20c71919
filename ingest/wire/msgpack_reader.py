"""Reads msgpack one value at a time, without building what nobody asked for.

Ready-made unpackers interpret what only has to be stepped over (timestamps, map keys), and their
limits on lengths and nesting move between releases. Here a value is sound when its structure is,
whatever it holds, and its nesting is at most `NESTING_MAX`: the same rule as in the native decoder,
so that both can be compared on any input.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from kvatlas.index.errors import DecodeError

NESTING_MAX = 512
"""Containers inside one another in one value, the outermost counted, empty ones too."""

Kind = Literal["nil", "bool", "int", "float", "str", "bin", "array", "map", "ext", "invalid"]


class BrokenMsgpackError(DecodeError):
    """The bytes end inside a value, hold the byte 0xc1 as one, or nest too deep."""

    def __init__(self, got: str) -> None:
        self.expected = "a whole msgpack value"
        self.got = got
        super().__init__(f"expected {self.expected}, got {got}")


class _Form(NamedTuple):
    """What a value's first byte says."""

    kind: Kind
    length_bytes: int
    """Width of the big-endian length behind the first byte; 0: there is none."""
    size: int
    """To be added to that length: bytes of the body, elements of an array, pairs of a map."""


def _forms() -> list[_Form]:
    forms = [_Form("invalid", 0, 0)] * 256
    forms[0x00:0x80] = [_Form("int", 0, 0)] * 128
    forms[0xE0:0x100] = [_Form("int", 0, 0)] * 32
    forms[0x80:0x90] = [_Form("map", 0, pairs) for pairs in range(16)]
    forms[0x90:0xA0] = [_Form("array", 0, elements) for elements in range(16)]
    forms[0xA0:0xC0] = [_Form("str", 0, length) for length in range(32)]
    forms[0xC0] = _Form("nil", 0, 0)
    forms[0xC2:0xC4] = [_Form("bool", 0, 0)] * 2
    forms[0xC4:0xC7] = [_Form("bin", width, 0) for width in (1, 2, 4)]
    forms[0xC7:0xCA] = [_Form("ext", width, 1) for width in (1, 2, 4)]  # 1: the type
    forms[0xCA:0xCC] = [_Form("float", 0, width) for width in (4, 8)]
    forms[0xCC:0xD4] = [_Form("int", 0, width) for width in (1, 2, 4, 8) * 2]
    forms[0xD4:0xD9] = [_Form("ext", 0, 1 + length) for length in (1, 2, 4, 8, 16)]
    forms[0xD9:0xDC] = [_Form("str", width, 0) for width in (1, 2, 4)]
    forms[0xDC:0xDE] = [_Form("array", width, 0) for width in (2, 4)]
    forms[0xDE:0xE0] = [_Form("map", width, 0) for width in (2, 4)]
    return forms


_FORMS = _forms()


class MsgpackReader:
    """A position in msgpack bytes, always before a value.

    Every `read_*` needs a value of that kind (see `peek_kind`), and steps over it; for a
    container, over its header. All raise BrokenMsgpackError when the value is not all there; what
    follows it cannot be read then.
    """

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def peek_kind(self) -> Kind:
        """Kind of the next value, by its first byte alone."""
        return _FORMS[self._byte()].kind

    def skip(self) -> None:
        """Steps over one value. Cost: its bytes, whatever its lengths claim."""
        pending: list[int] = []  # values still to come, per container that is open
        while True:
            kind, size = self._read_header()
            if kind == "array" or kind == "map":
                if len(pending) == NESTING_MAX:
                    raise self._broken(f"more than {NESTING_MAX} containers inside one another")
                pending.append(size if kind == "array" else 2 * size)
            else:
                self.position += size
            while pending and pending[-1] == 0:
                pending.pop()
            if not pending:
                return
            pending[-1] -= 1

    def read_nil(self) -> bool:
        """Steps over a nil; False: something else is next."""
        if self.peek_kind() != "nil":
            return False
        self.position += 1
        return True

    def read_raw(self) -> bytes:
        """The bytes of one whole value."""
        start = self.position
        self.skip()
        return self._data[start : self.position]

    def read_array_header(self) -> int:
        """Number of elements that follow, or are claimed to."""
        return self._read_size("array")

    def read_map_header(self) -> int:
        """Number of pairs that follow, or are claimed to."""
        return self._read_size("map")

    def read_key(self) -> str | None:
        """A map's key; None: it is no string, and was stepped over."""
        if self.peek_kind() == "str":
            return self.read_str()
        self.skip()
        return None

    def read_int(self) -> int:
        first = self._byte()
        body = self._read_body("int")
        if body:
            return int.from_bytes(body, "big", signed=first >= 0xD0)
        return first if first < 0x80 else first - 0x100

    def read_float(self) -> float:
        body = self._read_body("float")
        value: float = struct.unpack(">f" if len(body) == 4 else ">d", body)[0]
        return value

    def read_str(self) -> str:
        """A string; bytes that are not UTF-8 become lone surrogates (`surrogateescape`)."""
        return self._read_body("str").decode("utf-8", "surrogateescape")

    def read_bin(self) -> bytes:
        return self._read_body("bin")

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise self._broken("the end of the bytes")
        return self._data[self.position]

    def _read_header(self) -> tuple[Kind, int]:
        """Kind and size of the next value, whose body (of a scalar) is then all there, and next."""
        kind, length_bytes, size = _FORMS[self._byte()]
        if kind == "invalid":
            raise self._broken("the byte 0xc1")
        body = self.position + 1 + length_bytes
        if length_bytes:
            size += int.from_bytes(self._data[self.position + 1 : body], "big")
        end = body if kind == "array" or kind == "map" else body + size
        if end > len(self._data):
            raise self._broken("the end of the bytes")
        self.position = body
        return kind, size

    def _read_size(self, expected: Kind) -> int:
        kind, size = self._read_header()
        assert kind == expected
        return size

    def _read_body(self, expected: Kind) -> bytes:
        size = self._read_size(expected)
        start = self.position
        self.position += size
        return self._data[start : self.position]

    def _broken(self, what: str) -> BrokenMsgpackError:
        return BrokenMsgpackError(f"{what} at byte {self.position}")
