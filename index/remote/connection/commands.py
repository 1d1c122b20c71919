"""Commands, and their bytes on the wire."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import NamedTuple

N_SLOTS = 16384


class Packed(NamedTuple):
    """Several arguments that native code has packed: as they are on the wire."""

    n_arguments: int
    data: bytes


Argument = bytes | str | int


class Command(NamedTuple):
    """One command. Source: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/"""

    key: bytes | None
    """What decides the node in a cluster: any key of the command. None: any node will do."""
    args: tuple[Argument | Packed, ...]
    """The name first; a name of two words is two arguments."""


def pack(commands: Iterable[Command]) -> bytes:
    """All of them, one behind the other. In pure Python, and faster than redis-py's packer for many."""
    pieces: list[bytes] = []
    for command in commands:
        head_at, count = len(pieces), len(command.args)
        pieces.append(b"*%d\r\n" % count)
        for argument in command.args:
            if isinstance(argument, Packed):
                count += argument.n_arguments - 1
                pieces[head_at] = b"*%d\r\n" % count
                pieces.append(argument.data)
            else:
                data = argument if type(argument) is bytes else _encoded(argument)
                pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


def _encoded(argument: Argument) -> bytes:
    if isinstance(argument, str):
        return argument.encode()
    return b"%d" % argument if isinstance(argument, int) else bytes(argument)  # what behaves like bytes, too


def slot_of(key: bytes) -> int:
    """The slot of a key in a cluster: of what stands between its first { and the next }, if anything does."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return binascii.crc_hqx(key, 0) % N_SLOTS
