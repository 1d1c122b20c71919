"""llm-d's hashes on a server: asked who holds keys, told fields to add and remove, paged through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import llmd_arguments
from kvatlas.index.remote.connection.commands import Command, Packed
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.llmd import scripts
from kvatlas.index.remote.llmd.answers import Held, decimal, read_held
from kvatlas.index.remote.llmd.entries import ENTRY_BYTES_MAX
from kvatlas.index.remote.llmd.writing import Change

_KEYS_PER_READ = 128
_FIELDS_PER_READ = 1 << 18
_KEYS_PER_WRITE = 512
_KEYS_PER_TRIP = 1 << 14
_FIELDS_PER_WRITE = 512
_PAGE_KEYS = 1024


class LlmdServer:
    """One server or cluster. Any thread may call any method; all raise RemoteIndexError."""

    def __init__(
        self, connection: RemoteConnection, *, read_s: float, write_s: float, fields_max: int = 8192
    ) -> None:
        """`read_s`, `write_s`: time of a round trip.

        `fields_max`: copies of a block; one with more is nobody's.
        """
        self._connection = connection
        self._read_s = read_s
        self._write_s = write_s
        self._limits = (fields_max, _FIELDS_PER_READ, ENTRY_BYTES_MAX)
        # In a cluster every key has a slot of its own, and a script runs in one.
        self._is_cluster = connection.is_cluster
        self._held = connection.script(scripts.HELD)
        self._change = connection.script(scripts.CHANGE)

    def held(self, keys: Sequence[bytes], timeout_s: float | None = None) -> Held:
        """Who holds these keys: one round trip."""
        pieces = list(self._pieces(keys, _KEYS_PER_READ))
        commands = [self._held.command(piece, self._limits) for piece in pieces]
        answers = self._run(commands, self._read_s if timeout_s is None else timeout_s)
        return read_held(answers, [len(piece) for piece in pieces])

    def change(self, changes: Sequence[Change]) -> int:
        """Add and remove fields, in this order; returns how many keys are of a wrong type, and stay.

        One round trip for each 16 384 keys. Repeatable.
        """
        commands: list[Command] = []
        wrong_type = n_keys = 0
        for change in changes:
            verb = b"HSET" if change.is_add else b"HDEL"
            for at in range(0, len(change.fields), _FIELDS_PER_WRITE):
                fields = change.fields[at : at + _FIELDS_PER_WRITE]
                for command, count in self._changing(change.keys, [verb, *fields]):
                    commands.append(command)
                    n_keys += count
                    if n_keys >= _KEYS_PER_TRIP:
                        wrong_type += self._tell(commands)
                        commands, n_keys = [], 0
        return wrong_type + self._tell(commands)

    def pages(self) -> Iterator[list[bytes]]:
        """All keys that are named as llm-d names blocks; some may come twice."""
        for page in self._connection.scan("[0-9]*", count=_PAGE_KEYS, timeout_s=self._write_s):
            keys = [key for key in page if _is_block_key(key)]
            if keys:
                yield keys

    def _changing(self, keys: npt.NDArray[np.uint64], words: list[bytes]) -> Iterator[tuple[Command, int]]:
        """Calls of the script, and how many keys each has."""
        if self._is_cluster:
            for key in decimal(keys):
                yield self._change.command([key], words), 1
            return
        for at in range(0, len(keys), _KEYS_PER_WRITE):
            some = keys[at : at + _KEYS_PER_WRITE]
            yield self._change.command([], words, Packed(len(some), llmd_arguments(some))), len(some)

    def _tell(self, commands: Sequence[Command]) -> int:
        """Keys of a wrong type."""
        return sum(int(answer) for answer in self._run(commands, self._write_s))

    def _run(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        if not commands:
            return []
        return self._connection.run_or_raise(commands, timeout_s=timeout_s, is_repeatable=True)

    def _pieces(self, keys: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
        step = 1 if self._is_cluster else most
        for at in range(0, len(keys), step):
            yield keys[at : at + step]


def _is_block_key(name: bytes) -> bool:
    """A u64 in decimal, as Go writes it."""
    return name.isdigit() and len(name) <= 20 and int(name) < 1 << 64 and (name[:1] != b"0" or name == b"0")
