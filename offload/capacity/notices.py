"""Notices of removals, for those who announce for a space: small files that one leaves and another takes.

    <root>/control/removed/<space>/<16 hex>.keys      {"format": 1, "keys": [HEX, ...]}

An evictor deletes files of all spaces, but it is the engines of a space that announce for it. Where none of
them runs nobody routes by its files either, and the next one finds the notices.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import KEY_BYTES_MAX
from kvatlas.offload.capacity.control import ControlFolder, read_small, write_small

FORMAT = 1
_FILES_MAX = 16_384
_TAKEN_MAX = 256
_SUFFIX = ".keys"
_KEY_BYTES_MIN = 5  # a hash of one byte, and the group


class _Notice(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    keys: tuple[str, ...]


class RemovalNotices:
    """Leaves and takes notices of one store. One thread for each of both; they raise OSError."""

    def __init__(self, root: Path) -> None:
        self._folder = ControlFolder(root).folder / "removed"
        self.dropped = 0
        """Keys of notices that found 16 384 others of their space waiting."""

    def leave(self, space: str, keys: Sequence[bytes]) -> None:
        """These are no longer in the store."""
        folder = self._folder / space
        if len(_names(folder)) >= _FILES_MAX:
            self.dropped += len(keys)
            return
        folder.mkdir(parents=True, exist_ok=True)
        notice = _Notice(keys=tuple(key.hex() for key in keys))
        write_small(folder / f"{secrets.token_hex(8)}{_SUFFIX}", msgspec.json.encode(notice))

    def take(self, space: str) -> list[bytes]:
        """Keys of at most 256 notices, which go. Two that take at once may both get a key.

        What cannot be taken away stays, and is not heeded: it would be told again and again.
        """
        keys: list[bytes] = []
        for name in _names(self._folder / space)[:_TAKEN_MAX]:
            with contextlib.suppress(OSError):
                keys += _take(self._folder / space / name)
        return keys


def _take(path: Path) -> list[bytes]:
    keys: list[bytes] = []
    with contextlib.suppress(msgspec.MsgspecError, ValueError, StoreError):
        notice = msgspec.json.decode(read_small(path), type=_Notice)
        keys = [key for key in map(bytes.fromhex, notice.keys) if _is_key(key)]
    os.unlink(path)
    return keys


def _is_key(key: bytes) -> bool:
    return _KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(_SUFFIX)]
    except FileNotFoundError:
        return []
