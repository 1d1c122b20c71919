"""CRC-32C, bit by bit, after RFC 3720 B.4: what every native way must agree with."""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # reflected
_OF_BYTE = []
for _byte in range(256):
    _state = _byte
    for _ in range(8):
        _state = (_state >> 1) ^ (_POLYNOMIAL if _state & 1 else 0)
    _OF_BYTE.append(_state)


def crc32c(data: bytes, crc: int = 0) -> int:
    """The CRC of what `crc` stood for followed by `data`."""
    state = crc ^ 0xFFFFFFFF
    for byte in data:
        state = (state >> 8) ^ _OF_BYTE[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF
