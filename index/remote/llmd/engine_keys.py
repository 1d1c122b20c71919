"""What engine keys mean in block keys, kept as llm-d keeps it: a sorted set for each.

llm-d's writers resolve removals, offloads and parents of a server's events through these. A kvatlas
writer does not need them (its mirrors know), so they are told only where somebody asks for them: they are
one key more a block on the server.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kvatlas.index.errors import InputError
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.failures import ErrorReply
from kvatlas.index.remote.llmd import scripts
from kvatlas.index.remote.llmd.answers import decimal

_HEAD = struct.Struct("<QII")
"""Engine key, count of keys, gone; the block keys follow, 8 bytes each."""
_COMMANDS_PER_TRIP = 1 << 13


class EngineKey(NamedTuple):
    """What a mirror tells of one engine key."""

    engine_key: int
    block_keys: list[bytes]
    """In decimal, in the order of the chain."""
    is_gone: bool


def engine_keys_of(records: bytes) -> Iterator[EngineKey]:
    """Read what `Mirror.set_engine_keys` has told. Raises InputError for what is cut short."""
    at = 0
    while at < len(records):
        if len(records) - at < _HEAD.size:
            raise InputError(f"engine keys at byte {at}: expected a record, got {len(records) - at} bytes")
        engine_key, count, gone = _HEAD.unpack_from(records, at)
        at += _HEAD.size
        if len(records) - at < 8 * count:
            raise InputError(
                f"engine keys at byte {at}: expected {count} keys, got {len(records) - at} bytes"
            )
        yield EngineKey(engine_key, decimal(np.frombuffer(records, "<u8", count, at)), bool(gone))
        at += 8 * count


class EngineKeyWriter:
    """Writes them. One thread at a time; raises RemoteIndexError, and writing again is safe."""

    def __init__(self, connection: RemoteConnection, *, timeout_s: float = 2.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._prune = connection.script(scripts.PRUNE_ENGINE_KEY)
        self.wrong_type = 0
        """Engine keys whose key on the server holds something else; they stay."""

    def write(self, records: bytes) -> None:
        """Tell the server: what is known is added, what is gone is removed unless somebody holds its blocks.

        Write the residency deltas of the same moment first. One round trip for each 8 192 engine keys.
        """
        told = list(engine_keys_of(records))
        for at in range(0, len(told), _COMMANDS_PER_TRIP):
            some = told[at : at + _COMMANDS_PER_TRIP]
            # In a cluster the blocks lie elsewhere, and no script sees them: asked first.
            held = self._held_elsewhere(some) if self._connection.is_cluster else frozenset()
            self._run([self._command(key) for key in some if not (key.is_gone and key.engine_key in held)])

    def _command(self, told: EngineKey) -> Command:
        name = b"engine:%d" % told.engine_key
        if told.is_gone:
            return self._prune.command([name] if self._connection.is_cluster else [name, *told.block_keys])
        places = [word for place, key in enumerate(told.block_keys) for word in (place, key)]
        return Command(name, ("ZADD", name, *places))

    def _held_elsewhere(self, some: Sequence[EngineKey]) -> frozenset[int]:
        asked = [(key.engine_key, block) for key in some if key.is_gone for block in key.block_keys]
        answers = self._run([Command(block, ("HLEN", block)) for _, block in asked])
        return frozenset(key for (key, _), size in zip(asked, answers, strict=True) if size != 0)

    def _run(self, commands: Sequence[Command]) -> list[object]:
        if not commands:
            return []
        answers = self._connection.run(commands, timeout_s=self._timeout_s, is_repeatable=True)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, ErrorReply) and answer.code != "WRONGTYPE":
                self._connection.run_or_raise([command], timeout_s=self._timeout_s, is_repeatable=True)
            self.wrong_type += isinstance(answer, ErrorReply)
        return answers
